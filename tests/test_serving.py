"""Serving: each server gives the model's own answers, faults are survived, and what did not engage is not a result."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from scipy.stats import chisquare

from kit.common import load, services
from kit.errors import UserError
from kit.record.document import Series
from kit.techniques.serving import checks, containers, deploy, faults, figures, models, queue_model, variants
from kit.techniques.serving.deploy import Plan
from kit.techniques.serving.servers import protocol
from kit.techniques.serving.variants import Asked, Served

ASKED = Asked("small", bound_s=0.1, percentile=0.9, rates=(20.0, 40.0), bounds=10)
PLANS = deploy.plans(workers=2, batch=8)


def served(name, asked=ASKED):
    """Return a server by its name, under no load yet; skip the test where it is not installed."""
    plan = PLANS[name]
    if plan.skip:
        pytest.skip(plan.skip)
    for module in plan.requires:
        pytest.importorskip(module)
    return Served(plan, asked, name)


def gone(port):
    """Return whether nothing answers on a port any more, some seconds after its server's end."""
    until = time.monotonic() + 10
    while services.listens(port) and time.monotonic() < until:
        time.sleep(0.05)
    return not services.listens(port)


@pytest.fixture(scope="module")
def plain():
    """FastAPI on one process, for tests that leave it as it was."""
    with served("FastAPI") as server:
        yield server


# Servers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in PLANS if name not in ("FastAPI, 1 thread", "all threads each")])
def test_each_server_gives_the_models_answers_and_refuses_bad_bodies(name):
    """Answers over HTTP are the offline ones by number; too large and malformed bodies get 4xx; clients may go."""
    with served(name) as server:
        found = server.offer(40, 40)
        assert found.failed == 0
        result = checks.same_answers(server.answer(), None)
        assert result.state == "passed", result.note
        assert all(fault.survived for fault in faults.bad_requests(server)), faults.bad_requests(server)
        assert len(server.replicas) <= PLANS[name].replicas and server.mixed_up == 0
        port = server.port
    assert gone(port)


def test_batching_engages_under_load_only():
    """Micro-batching with fewer than 1.5 requests per computation is no result; under load it is one."""
    with served("micro-batching") as server:
        server.offer(5, 20)
        proof = server.proof()
        assert proof.state == "fell back" and "below 1.5" in proof.note
        load.offer(server.url, server.bodies, 5_000, 300, headers=variants.HEADERS)
        server.batches.clear()
        server.offer(3_000, 600)
        assert server.proof().state == "verified" and server.proof().costs["mean_batch"] >= 1.5


def test_threads_are_counted():
    """A replica that is given more threads has more, by /proc."""
    counted = {}
    for threads in (1, 4):
        with Served(Plan(deploy.uvicorn, threads=threads), ASKED) as server:
            server._note(load.closed(server.url, server.bodies[:20], headers=variants.HEADERS), 0)
            counted[threads] = server.proof().facts["threads"]
    assert counted[4] - counted[1] == 3


def test_haproxy_shares_requests_evenly():
    """Behind haproxy each replica answers its part of the requests."""
    with served("haproxy") as server:
        server.offer(40, 120)
        assert len(server.replicas) == 2
        assert chisquare(list(server.replicas.values())).pvalue > 1e-3


def test_cold_start_and_memory_are_measured(plain):
    """The proof has seconds to the first answer, memory per replica, and the queue as the server saw it."""
    plain.offer(40, 40)
    costs = plain.proof().costs
    assert 0 < costs["cold_start_s"] < 120 and 20 < costs["pss_mib"] < 2_000 and costs["queue_ms"] > 0


# Checks ---------------------------------------------------------------------------------------------------------------

CACHING = """
from fastapi import Request
from kit.techniques.serving.servers import protocol

app, kept = protocol.application(), {}
model, predict_batch = protocol.model()

@app.post("/predict")
async def predict(request: Request):
    body = await protocol.read(request)
    number, sample, arrived = protocol.decode(model, body)
    if body[8:] not in kept:
        for _ in range(10):
            kept[body[8:]] = protocol.answers(predict_batch, [(number, sample, arrived)])[0]
    return kept[body[8:]] | {"number": number}
"""


def test_a_cache_is_unmasked(tmp_path):
    """A server that remembers answers gives the right ones, and is rejected: a repeated request is faster."""
    (tmp_path / "caching_server.py").write_text(CACHING)

    def start(plan, environment, stack):
        path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
        command = [sys.executable, "-m", "uvicorn", "caching_server:app", "--port", "{port}", "--log-level", "warning"]
        environment = environment | {"PYTHONPATH": path}
        server = services.Service("caching", command, ready=deploy.answers, environment=environment, start_s=60)
        return stack.enter_context(server).start().port

    with Served(Plan(start), ASKED) as server:
        result = checks.same_answers(server.answer(), None)
    assert result.state == "failed" and "comes from a cache" in result.note


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"served": [(0, 1, 0.5), None]}, "1 of 2 differ"),
        ({"served": [(0, 1, 0.5), (1, 2, 0.26)]}, "1 of 2 differ"),
        ({"served": [(1, 2, 0.25), (0, 1, 0.5)]}, "2 of 2 differ"),
        ({"mixed up": 3}, "3 were another request's"),
    ],
)
def test_other_answers_fail_the_check(change, note):
    """A missing answer, another value, and another request's answer fail."""
    answer = {"served": [(0, 1, 0.5), (1, 2, 0.25)], "offline": [(0, 1, 0.5), (1, 2, 0.25)], "mixed up": 0}
    answer |= {"different_s": [1.0] * 20, "repeated_s": [1.0] * 20}
    assert checks.same_answers(answer, None).state == "passed"
    result = checks.same_answers(answer | change, None)
    assert result.state == "failed" and note in result.note


# Capacity -------------------------------------------------------------------------------------------------------------


def test_capacity_is_where_a_rounds_loads_cross_the_bound(tmp_path):
    """Loads at the two rates around it; the loads of all rounds together hold below it and fail above it."""
    rates = tuple(25 * 1.4**step for step in range(7))
    asked = Asked("small", 0.05, 0.9, rates, bounds=100, log=tmp_path)
    server = object.__new__(Served)
    server.asked, server.capacities, server.rates, server.name = asked, [], rates, "FastAPI"
    server.offer = lambda *at: queue_model.simulate(np.array([0.01]), 1, *at)  # computes 100 requests/s at most
    found = [server.capacity() for _ in range(4)]
    assert all(65 < 1 / one.seconds < 100 and one.metrics["p90_ms"] <= 50 for one in found)
    session = SimpleNamespace(measurements={"FastAPI": SimpleNamespace(wall_s=[one.seconds for one in found])})
    result = SimpleNamespace(record=SimpleNamespace(points=[SimpleNamespace(sessions=[session])]))
    pooled = figures.capacity(result, "FastAPI", asked)
    assert pooled.lower in rates and pooled.upper in rates and pooled.lower < 90 < pooled.upper < 150
    assert all(point.load.requests >= point.rate * 100 * 0.05 - 1 for point in pooled.points)
    assert pooled.ratio(pooled) == (1, 1, 1) and len(pooled.rounds) == 4
    assert figures.capacity(result, "mosec", asked).points == ()


def test_nothing_is_claimed_above_half_of_the_generators_peak(plain):
    """A server that carries all that may be offered is no result: the generator was the limit."""
    server = Served.__new__(Served)
    server.__dict__ |= plain.__dict__
    server.asked = Asked("small", 10.0, 0.9, (5.0, 10.0, 100.0), 0.1, peak=20.0)
    server.rates, server.capacities = [5.0, 10.0], []
    server.capacity()
    proof = server.proof()
    assert proof.state == "fell back" and "half of the generator's own 20" in proof.note


def test_a_bound_that_no_rate_holds_is_a_users_mistake(plain):
    """The remedy is in the sentence."""
    server = Served.__new__(Served)
    server.__dict__ |= plain.__dict__
    server.asked = Asked("small", 1e-6, 0.9)
    with pytest.raises(UserError, match="raise bound_ms="):
        variants.ladder(server)


# Faults ---------------------------------------------------------------------------------------------------------------


@pytest.mark.alone
def test_a_hanging_server_shows_in_the_open_loop_alone():
    """Stopped for three quarters of the load (SIGSTOP), the median is long in an open loop and not in a closed one."""
    with served("FastAPI") as server:
        opened, closed = (np.median(one.latency_s) for one in faults.stopped(server, 40, 1.5, load.offer, load.closed))
        assert opened > 0.3 > closed
        assert server.offer(40).failed == 0


@pytest.mark.alone
@pytest.mark.parametrize("name", ["FastAPI, workers", "haproxy"])
def test_a_killed_replica_costs_few_requests(name):
    """The others answer, and the share that failed and the time to recover are reported."""
    if PLANS[name].skip:
        pytest.skip(PLANS[name].skip)
    found = faults.replica_killed(ASKED, 40, PLANS[name])
    assert found.survived and found.failed < 0.5
    assert (found.failed == 0) == (found.recovered_s is None)


def test_what_cannot_start_says_why_in_one_sentence():
    """A port in use and a damaged model end in a `UserError` with the server's last words."""
    port, model = faults.refused(ASKED)
    assert port.survived and "in use" in port.outcome
    assert model.survived and "cut.onnx" in model.outcome


KILLED = """
import sys
from kit.techniques.serving import deploy, variants
server = variants.Served(deploy.Plan(deploy.uvicorn, 2), variants.Asked("small", 0.1, 0.9))
print(server.port, flush=True)
while True:
    server.offer(40, 400)
"""


def test_no_server_is_left_when_the_generator_is_killed():
    """Killed under load (SIGKILL), a client takes its servers and its generator with it."""
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True) as client:
        port = int(client.stdout.readline())
        time.sleep(1.0)
        children = psutil.Process(client.pid).children(recursive=True)
        client.send_signal(signal.SIGKILL)
    psutil.wait_procs(children, timeout=10)
    assert len(children) >= 3 and gone(port)
    assert not [one for one in children if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


# Models ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", models.BUILT_IN)
def test_built_in_models_answer_alone_and_in_batches(name):
    """Each sample's output does not depend on its batch, and requests differ."""
    model = models.opened(name)
    bodies = model.bodies(8)
    assert len(set(bodies)) == 8
    batch = model.load(1)(np.stack([model.decode(body) for body in bodies]))
    alone = models.offline(model, bodies)
    assert [models.top(output)[0] for output in batch] == [place for place, _ in alone]
    np.testing.assert_allclose([models.top(output)[1] for output in batch], [value for _, value in alone], rtol=1e-3)


def test_a_model_of_your_own(tmp_path, monkeypatch):
    """An ONNX file with its samples, and a function that builds a model."""
    onnx = pytest.importorskip("onnx")
    text = '<ir_version: 9, opset_import: ["": 17]> own (float[n, 3] x) => (float[n, 3] y) { y = Neg(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "own.onnx")
    np.savez(tmp_path / "own.npz", x=np.array([[1, 2, -3], [-4, 5, 6]], np.float32))
    own = models.opened(str(tmp_path / "own.onnx"))
    assert models.offline(own, own.bodies(3)) == [(2, 3.0), (0, 4.0), (2, 3.0)]
    with pytest.raises(ValueError, match="a sample has 12 bytes"):
        own.decode(b"short")
    (tmp_path / "built_here.py").write_text(
        "from kit.techniques.serving import models\nbuild = models.small\nother = lambda: 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert models.opened("built_here:build").name == "a small network"
    with pytest.raises(UserError, match="returns int"):
        models.opened("built_here:other")


@pytest.mark.parametrize("name", ["magica", "missing.onnx", "no.such_module:build"])
def test_a_model_that_is_not_there_ends_in_one_sentence(name):
    """The sentence names what was given."""
    with pytest.raises(UserError, match=name.partition(":")[0]):
        models.opened(name)


def test_a_malformed_body_is_a_value_error():
    """Servers answer 400 to it."""
    model = models.opened("small")
    with pytest.raises(ValueError, match="begins with the request's number"):
        protocol.decode(model, b"")
    assert protocol.decode(model, protocol.wrap(7, model.bodies(1)[0]))[0] == 7


# Containers -----------------------------------------------------------------------------------------------------------


def test_manifests_are_valid_and_a_fault_is_named():
    """Kubernetes' schema accepts them, and names the field of one that it does not know."""
    pytest.importorskip("kubernetes_validate")
    found = containers.manifests(Plan(deploy.uvicorn).environment("small"))
    assert containers.validate(found) == dict.fromkeys(["Pod", "Deployment", "Service", "HorizontalPodAutoscaler"], "")
    wrong = containers.validate([found[1].replace("replicas: 2", "replicas: two")])
    assert "replicas" in wrong["Deployment"]


def test_without_podman_the_remedy_is_named(monkeypatch):
    """A container is skipped with what to install."""
    monkeypatch.setenv("PATH", "/nowhere")
    containers.why_not.cache_clear()
    assert "apt-get install podman" in containers.why_not()
    containers.why_not.cache_clear()


@pytest.mark.alone
def test_a_pod_answers_with_the_digest_of_its_image(tmp_path):
    """The image is built without a registry; the pod gives the same answers, and is gone when it is closed."""
    if reason := containers.why_not():
        pytest.skip(reason)
    with Served(containers.plan(tmp_path / "image", "small"), ASKED) as server:
        server.offer(20, 20)
        assert checks.same_answers(server.answer(), None).state == "passed"
        facts, port = server.proof().facts, server.port
        assert facts["image"] == Path(tmp_path / "image/digest").read_text()[:19] and facts["threads"] > 0
    assert gone(port) and not containers.processes(port)


# Figures --------------------------------------------------------------------------------------------------------------


def test_modelled_replicas_are_drawn_as_modelled(tmp_path):
    """The queue's curve is named modelled, the measured points are beside it, and rounds show what replicas bring."""
    walls = {"FastAPI, 1 thread": [0.02, 0.021, 0.02], "FastAPI, workers": [0.01, 0.011, 0.01]}
    session = SimpleNamespace(measurements={name: SimpleNamespace(wall_s=wall) for name, wall in walls.items()})
    result = SimpleNamespace(record=SimpleNamespace(points=[SimpleNamespace(sessions=[session])]))
    chart = figures.replicas(result, 2, Asked("small", 0.1, 0.9, log=tmp_path), np.full(50, 0.01))
    modelled, measured = chart.series
    assert isinstance(modelled, Series) and modelled.style == "modelled" and len(modelled.x) == 8
    assert measured.x == [1, 2] and measured.y == pytest.approx([50, 100])
    assert "2 replicas of one thread carry 2.0× as much as one (95 % CI 1.8–2.1)" in chart.note


@pytest.mark.parametrize(
    ("at_50", "at_80", "mark"),
    [
        ("equivalent", "faster", "✓"),
        ("faster", "faster", "✗"),
        ("inconclusive", "faster", "?"),
        ("rejected", "slower", "✗"),
    ],
)
def test_the_claim_on_batching(at_50, at_80, mark):
    """Batching is worth it only above 60 % load if it is faster there and not below."""
    verdicts = {50: at_50, 80: at_80}
    points = [SimpleNamespace(size=size) for size in verdicts]
    latency = SimpleNamespace(
        record=SimpleNamespace(points=points),
        at=lambda size: {"micro-batching": SimpleNamespace(verdict=verdicts[size])},
    )
    result = {"FastAPI": SimpleNamespace(verdict="baseline")}
    lines = figures.claim(result, latency, "p90 ≤ 20 ms", 0.02).splitlines()
    assert lines[1].startswith(mark) and "Batching" in lines[1]
    assert figures.claim(result, None, "p90 ≤ 20 ms", 0.02).splitlines()[1].startswith("?")  # no latencies
