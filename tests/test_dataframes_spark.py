"""Spark's engines: equal answers, proof by Spark's own counters, clusters that exist, and what goes wrong with them."""

import os
import pickle
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
from dask_cluster import cluster as dask_cluster

from kit import Comparison
from kit.common.services import Service
from kit.errors import UserError
from kit.machine import capabilities
from kit.measure.answers import equal
from kit.techniques.dataframes import QUESTIONS, checks, clusters, engines, own, workload

pyspark = pytest.importorskip("pyspark")
needs_java = pytest.mark.skipif(bool(why := capabilities.probe("pyspark")), reason=why.reason if why else "")
pytestmark = pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning")

ANSWERS = """
import pickle, sys
from kit.measure.answers import portable
from kit.techniques.dataframes import clusters, engines

engine, cluster, asked, out = pickle.loads(sys.stdin.buffer.read())
engines.WARM_S = 1e-9  # two untimed calls
if engine in ("pyspark", "sail"):
    session = clusters.sail() if engine == "sail" else clusters.spark(cluster)
    clusters.spark = clusters.sail = lambda *_: session  # one for all questions
found = {}
for name, (tables, question) in asked.items():
    ready = getattr(engines, engine)(tables, question, **({"cluster": cluster} if cluster else {}))
    found[name] = portable(ready.call()), ready.execution_proof()
with open(out, "wb") as file:
    pickle.dump(found, file)
"""


def answers(folder, engine, asked, cluster=""):
    """Return name → (answer, execution proof) of `asked`, name → (tables, question), by a process of its own."""
    out = folder / f"{engine}.pickle"
    environment = os.environ | {"KIT_THREADS": "2"}
    given = pickle.dumps((engine, cluster, asked, str(out)))
    done = subprocess.run([sys.executable, "-c", ANSWERS], input=given, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return pickle.loads(out.read_bytes())


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """All questions, on tables with missing values and on a user's own."""
    cache = tmp_path_factory.mktemp("cache")
    flights = workload.tables("delay_features", 5_000, cache=cache)
    mine = own.tables(flights.paths["flights"], ["tailnum", "dep_time"], ["dep_delay", "distance"], cache=cache)
    made = {name: workload.tables(name, 4_000, 10, 0.2, cache) for name in QUESTIONS if name.startswith(("g", "j"))}
    of = {name: flights if name == "delay_features" else made.get(name, mine) for name in QUESTIONS}
    return {name: (tables, name) for name, tables in of.items()}


@pytest.fixture(scope="module")
def expected(asked, tmp_path_factory):
    return answers(tmp_path_factory.mktemp("pandas"), "pandas", asked)


@pytest.mark.parametrize("engine", [pytest.param("pyspark", marks=needs_java), "sail"])
def test_engines_agree(engine, asked, expected, tmp_path):
    """Spark and Sail answer every question as pandas does, and prove that they did: Spark by jobs, tasks and tables in
    memory, Sail by its threads, without a JVM."""
    found = answers(tmp_path, engine, asked)
    assert not {name: note for name in asked if (note := equal(found[name][0], expected[name][0]).note)}
    proofs = [proof for _, proof in found.values()]
    assert {(proof.state, proof.facts["threads"]) for proof in proofs} == {("verified", 2)}
    assert all(proof.costs.keys() >= {"start_s", "load_s", "first_query_s", "warm_up_s"} for proof in proofs)
    if engine == "pyspark":
        assert all(proof.facts["jobs"] >= proof.facts["calls"] > 0 for proof in proofs)


COUNTED = dict(local=False, jobs=9, tasks=9, executors=2, threads=2, lost=0, cached_tables=1, uncached_partitions=0)


NO_WORK = [
    ({"jobs": 10}, "cached answers: 1 jobs for 5 calls"),
    ({"executors": 1, "lost": 1}, "1 of 2 executors, 1 lost"),
    ({"uncached_partitions": 3}, "3 partitions are not in memory"),
]


@pytest.mark.parametrize(("now", "note"), NO_WORK)
def test_counters_that_prove_no_work(now, note):
    """An answer without a job of its own, a lost executor and a table that left memory are no execution."""
    proof = checks.spark_engaged(COUNTED, COUNTED | {"jobs": 99, "tasks": 99} | now, calls=5)
    assert proof.state == "fell back" and note in proof.note


@pytest.fixture(scope="module")
def standalone():
    """A Spark master and a worker with one core, in processes of their own."""
    home = Path(pyspark.__file__).parent
    environment = {"SPARK_HOME": str(home), "SPARK_LOCAL_HOSTNAME": "127.0.0.1", "PYTHONPATH": ""}
    deploy, options = f"{home}/bin/spark-class org.apache.spark.deploy.".rsplit(maxsplit=1), ["--webui-port", "0"]
    given = {"environment": environment, "start_s": 120}
    master = [deploy[0], f"{deploy[1]}master.Master", "--host", "127.0.0.1", "--port", "{port}", *options]
    with Service("Spark's master", master, **given).start() as master:
        address = f"spark://127.0.0.1:{master.port}"
        size = ["--host", "127.0.0.1", "--cores", "1", "--memory", "1g"]
        worker = Service("Spark's worker", [deploy[0], f"{deploy[1]}worker.Worker", *size, *options, address],
                         ready=lambda _: "registered with master" in log.read_text(), **given)  # fmt: skip
        log = worker.folder / "service.log"
        with worker.start():
            yield address, worker


@needs_java
@pytest.mark.alone
def test_a_standalone_cluster_is_used_and_a_killed_executor_costs_that_variant_alone(standalone, asked, tmp_path):
    """Answers come from the cluster's executor; when it is killed, its variant is rejected and the others go on."""
    address, worker_pid = standalone[0], standalone[1].pid
    assert clusters.checked(address) == address

    def killing(tables, question):
        setup = engines.pyspark(tables, question, cluster=address)
        assert setup.execution_proof().facts["executors"] == 1
        for process in psutil.Process(worker_pid).children(recursive=True):
            if "CoarseGrainedExecutorBackend" in " ".join(process.cmdline()):
                process.kill()
        return setup

    comparison = Comparison("killed", baseline="pandas", time_budget_s=0.1, timeout_s=300, max_rounds=3)
    for name, function in {"pandas": engines.pandas, "Polars": engines.polars, "PySpark": killing}.items():
        comparison.variant(name, function)
    result = comparison.run(*asked["groupby_1"])
    assert result["Polars"].variant.check.state == result["PySpark"].variant.check.state == "passed"
    assert result["PySpark"].verdict == "rejected" and "lost" in result["PySpark"].reason


@needs_java
@pytest.mark.alone
def test_another_python_on_the_workers_is_one_sentence(standalone, tmp_path, monkeypatch):
    """Workers with another Python are found by a task on them, before anything is measured."""
    other = "import sys\nsys.version_info = type('Info', (tuple,), {'major': 3, 'minor': 9})((3, 9, 1, 'final', 0))\n"
    (tmp_path / "sitecustomize.py").write_text(other)
    script = f'#!/bin/sh\nPYTHONPATH={tmp_path}:$PYTHONPATH exec {sys.executable} "$@"\n'
    (tmp_path / "python").write_text(script)
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setenv("PYSPARK_PYTHON", str(tmp_path / "python"))
    with pytest.raises(UserError, match=r"workers have Python 3.9, and 3\.\d+ is here; install the same on both$"):
        clusters.checked(standalone[0])


def test_a_spark_connect_server_answers(asked, expected, tmp_path):
    """PySpark's variant works on any server of Spark Connect: here Sail's, in a process of its own, without Java."""
    few = {name: asked[name] for name in ("groupby_3", "join_2", "delay_features")}
    command = f"{sys.executable} -m pysail spark server --ip 127.0.0.1 --port {{port}}".split()
    with Service("Sail's server", command).start() as server:
        address = f"sc://127.0.0.1:{server.port}"
        assert clusters.checked(address) == address
        found = answers(tmp_path, "pyspark", few, address)
    assert not {name: note for name in few if (note := equal(found[name][0], expected[name][0]).note)}


@pytest.mark.parametrize("address", ["scheduler:8786", "http://scheduler:8786", "tcp://scheduler", "spark://a:b"])
def test_what_is_no_address_is_refused(address):
    """An address without a known scheme or a port is answered with the forms there are."""
    with pytest.raises(UserError, match="is no address of a cluster; give tcp://HOST:8786"):
        clusters.checked(address)


@pytest.mark.parametrize("scheme", clusters.HELLO)
def test_a_cluster_that_does_not_answer_is_one_sentence(scheme, monkeypatch):
    """Nobody listens there, or something that never answers: a sentence with the remedy, before a client is started."""
    assert clusters.ANSWER_S == 10
    monkeypatch.setattr(clusters, "ANSWER_S", 0.5)
    monkeypatch.setattr(clusters.isolated, "python", None)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"{scheme}://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(UserError, match=r"can't be reached: no answer within 0.5 s; start it, or leave cluster"):
            clusters.checked(address)
    with pytest.raises(UserError, match="can't be reached: Connection refused; start it, or leave cluster empty"):
        clusters.checked(address)


def test_dask_workers_answer_unless_they_have_other_packages(asked, expected, tmp_path):
    """Workers in processes of their own answer as pandas does; none at all, or another version of a package on one of
    them, is found before anything is sent there."""
    (tmp_path / "old/cloudpickle-1.0.0.dist-info").mkdir(parents=True)
    (tmp_path / "old/cloudpickle-1.0.0.dist-info/METADATA").write_text("Name: cloudpickle\nVersion: 1.0.0\n")
    with dask_cluster(tmp_path / "cluster") as found:
        with pytest.raises(UserError, match=r"it has no worker; start one$"):
            clusters.checked(found.address)
        found.worker(tmp_path), found.worker(tmp_path), found.wait()
        assert list(engines.on_cluster(found.address)) == ["Dask on cluster"]
        answer, proof = answers(tmp_path, "dask", {"one": asked["groupby_3"]}, found.address)["one"]
        assert not equal(answer, expected["groupby_3"][0]).note and proof.facts["workers"] == 2
        found.worker(tmp_path, PYTHONPATH=str(tmp_path / "old")), found.wait()
        here = version("cloudpickle")
        with pytest.raises(UserError, match=f"have cloudpickle 1.0.0, and {here} is here; install the same on both$"):
            clusters.checked(found.address)
