"""More data than memory: equal answers, bounds that hold for whole process trees, spills that are counted, and ends
that cost only their own variant."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import msgspec
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from record_factory import Made, make_record

from kit.batch import notebooks
from kit.common import datasets, memory_bound
from kit.errors import UserError
from kit.machine import capabilities
from kit.measure import answers
from kit.measure.comparison import Comparison
from kit.measure.result import Result
from kit.record import recommendation
from kit.techniques.dataframes import bigger, figures

ROOT = Path(__file__).parents[1]
ALLOCATE = "import json, time; held = b'x' * {mib}_000_000; time.sleep(0.5); json.dump({{}}, open('answer.json', 'w'))"


def python(code: str) -> list[str]:
    return [sys.executable, "-P", "-c", code]


@pytest.fixture
def asked(tmp_path) -> dict:
    """A query over two small files, of keys that repeat in both, with values that are missing."""
    table = {"k": ["a", "a", "b", "b"], "id": [1, 2, 2, 2]}
    table |= {"x": [1, None, 5, 7], "y": [2, 3, 4, 5], "z": [9, 8, None, 6]}
    paths = [str(tmp_path / f"{number}.parquet") for number in (0, 1)]
    for path in paths:
        pq.write_table(pa.table(table), path)
    sql = bigger.SQL.format("k", "x", "y", "z", by="k, id")
    return {"paths": paths, "keys": ["k", "id"], "values": ["x", "y", "z"], "sql": sql}


@pytest.fixture
def many_groups(tmp_path, asked) -> dict:
    """The same query over three million groups, which take more memory than DuckDB gets under 0.25 GiB."""
    numbers = pa.array(range(3_000_000))
    table = pa.table({"k": ["a"] * len(numbers), "id": numbers, "x": numbers, "y": numbers, "z": numbers})
    pq.write_table(table, tmp_path / "many.parquet")
    with open(tmp_path / "many.parquet", "rb") as file:
        os.fsync(file.fileno())
    return asked | {"paths": [str(tmp_path / "many.parquet")]}


@pytest.mark.parametrize("engine", bigger.ENGINES)
def test_engines_agree(engine, asked):
    """Groups of groups, by hand: missing values count in no sum and no maximum."""
    if missing := capabilities.missing({"Dask": ["dask"], "PySpark": ["pyspark"]}.get(engine, [])):
        pytest.skip(missing.reason)
    found = bigger.variant(engine, asked, bound_gib=2.0, limit_s=300).call()
    expected = {"k": ["a", "b"], "num_groups": [2, 1], "num": [4, 4], "total": [2, 24], "amount": [10, 18]}
    assert answers.equal(found.answer, pa.table(expected | {"most": [8.5, 6.0]})).state == "passed"
    assert found.metrics["peak_mib"] > 10 and found.metrics["start_s"] > 0


def test_a_process_tree_ends_at_its_bound():
    """Memory of a child counts, and child and parent are gone afterwards."""
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ALLOCATE.format(mib=300)!r}])"
    before = psutil.Process().children(recursive=True)  # of other tests of this process
    with pytest.raises(UserError, match=r"^out of memory under 0.2 GiB$"):
        memory_bound.run(python(child), "", bound_gib=0.2, limit_s=60)
    left = [one for one in psutil.Process().children(recursive=True) if one not in before]
    _, left = psutil.wait_procs(left, timeout=30)  # the kernel takes its time to end what was killed
    assert not [one for one in left if one.status() != psutil.STATUS_ZOMBIE]


def test_below_its_bound_a_tree_ends_by_itself():
    """Its answer comes with its peak, and the command's input reaches it."""
    found = memory_bound.run(python(ALLOCATE.format(mib=100)), "", bound_gib=1, limit_s=60)
    assert 90 < found["peak_mib"] < 400 and found["bounded_by"] in ("PSS", "cgroup")
    echo = "import sys, json; json.dump({'said': sys.stdin.read()}, open('answer.json', 'w'))"
    assert memory_bound.run(python(echo), "hello", 1, 60)["said"] == "hello"


def test_a_tree_that_is_late_or_leaves_nothing_has_a_sentence():
    """The limit, or its last words."""
    with pytest.raises(UserError, match=r"^over 0.5 s$"):
        memory_bound.run(python("import time; time.sleep(600)"), "", 1, 0.5)
    with pytest.raises(UserError, match=r"^it has no licence$"):
        memory_bound.run(python("import time; time.sleep(0.3); raise SystemExit('it has no licence')"), "", 1, 60)


def test_a_spill_is_counted_by_the_engine_and_files_come_from_disk(many_groups):
    """DuckDB's profile counts what it spilled; at each call its file is read again, since no cache holds it."""
    variant = bigger.variant("DuckDB", many_groups, bound_gib=0.25)
    for _ in range(2):
        metrics = variant.call().metrics
        assert metrics["spilled_mib"] > 10
        read_mib = os.path.getsize(many_groups["paths"][0]) / 2**20
        on_disk = psutil.disk_usage(many_groups["paths"][0]).total and metrics["disk_mib"] > 0
        assert not on_disk or metrics["disk_mib"] > read_mib
    assert variant.execution_proof().facts["file_cache"] == "dropped before each call"


@pytest.fixture
def full_disk(tmp_path):
    """A file system of 8 MiB."""
    (tmp_path / "full").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path / "full")]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system needs the right to mount one")
    yield str(tmp_path / "full")
    subprocess.run(["umount", "-l", str(tmp_path / "full")], check=True)


@pytest.mark.alone
def test_a_full_disk_costs_only_its_variant(many_groups, full_disk):
    """The engine that spills there ends with a sentence; the baseline is measured."""
    comparison = Comparison("full", baseline="DuckDB", time_budget_s=0.1, timeout_s=300)
    for name, spill in {"DuckDB": "", "full": full_disk}.items():
        comparison.variant(name, partial(bigger.variant, "DuckDB", bound_gib=0.25, spill=spill))
    result = comparison.run(many_groups)
    assert result["full"].reason.startswith("the disk of its spill folder is full: ")
    assert result["DuckDB"].variant.state == "measured"


@pytest.mark.alone
def test_each_end_costs_only_its_variant(many_groups, capfd):
    """Out of memory and a wrong answer have a sentence each; whoever finishes is measured, and is the answer."""
    comparison = Comparison("ends", baseline="roomy", sizes=[0.5], time_budget_s=0.1, timeout_s=300)
    comparison.variant("roomy", partial(bigger.variant, "DuckDB", bound_gib=1.0))
    comparison.variant("DuckDB", partial(bigger.variant, "DuckDB", bound_gib=0.25))
    comparison.variant("pandas", partial(bigger.variant, "pandas", bound_gib=0.25))
    wrong = many_groups["sql"].replace("avg(most)", "2 * avg(most)")
    comparison.variant("wrong", lambda asked: bigger.variant("DuckDB", asked | {"sql": wrong}, bound_gib=0.25))
    result = comparison.run(lambda gib: many_groups)
    found = {one.name: one for one in result.record.points[0].variants}
    assert found["pandas"].reason == "out of memory under 0.25 GiB" and found["wrong"].verdict == "rejected"
    result.add(figures.within_bound(result, 0.25))
    answer = recommendation.of(result.record)
    assert answer.headline == "Only DuckDB finishes 2× the bound of 0.25 GiB"
    assert answer.evidence.startswith("DuckDB takes ") and "; roomy takes " in answer.evidence
    assert answer.evidence.endswith("; pandas finishes no size; wrong finishes no size")
    assert found["DuckDB"].state == "measured" and found["DuckDB"].check.state == "passed"
    assert found["roomy"].metrics["spilled_mib"] == 0 < found["DuckDB"].metrics["spilled_mib"]
    memory = found["DuckDB"].memory
    assert 50 < memory.after_setup_mib + memory.peak_mib < 256 and "process tree" in memory.method
    assert "Traceback" not in capfd.readouterr().err


def test_one_engine_that_finishes_is_the_answer():
    """Where all others run out of memory, no time is compared: the record answers which engine finishes."""
    made = {"roomy": Made(), "DuckDB": Made(), "pandas": Made(state="failed", reason="out of memory under 1 GiB")}
    result = Result(make_record(made | {"Dask": Made(state="skipped", reason="no Dask")}, sizes=[0.5, 4]))
    assert figures.finished(result) == {"DuckDB": 4, "pandas": 0}
    result.add(figures.within_bound(result, 1.0))
    assert recommendation.of(result.record).headline == "Only DuckDB finishes 4× the bound of 1 GiB"


def test_where_the_baseline_ends_nothing_is_claimed_of_the_others():
    """Above the largest size of the baseline no other engine is tried: the answer is of that size, and says so."""
    record = make_record({"roomy": Made(), "DuckDB": Made(), "PySpark": Made()}, sizes=[1])
    replace, (point,) = msgspec.structs.replace, record.points
    ends = ("failed", "failed"), *[("skipped", "inconclusive")] * 2
    pairs = zip(point.variants, ends, strict=True)
    above = [replace(one, state=state, verdict=verdict, median_s=None) for one, (state, verdict) in pairs]
    record = replace(record, points=[point, replace(point, size=4.0, variants=above)])
    answer = figures.within_bound(Result(record), 1.0)
    assert answer.rows[0][1].startswith("DuckDB and PySpark finish 1× the bound of 1 GiB: ")
    assert answer.rows[0][1].endswith("; above it roomy ends, and no other was tried")


@pytest.mark.parametrize("data", datasets.PARTS)
def test_parts_are_made_once_and_hold_as_much_as_was_asked_for(data, tmp_path):
    """Whole files; a file that was cut short is made again; a year of flights is not another's."""
    if data == "lineitem" and not Path(sys.executable).with_name("tpchgen-cli").exists():
        pytest.skip("tpchgen-cli is not installed")
    paths = datasets.parts(data, 0.0001, tmp_path)
    made = os.stat(paths[0]).st_mtime_ns
    assert len(paths) == 1 and datasets.parts(data, 0.0001, tmp_path) == paths and os.stat(paths[0]).st_mtime_ns == made
    table = pq.read_table(paths[0])
    assert table.nbytes >= 0.0001 * 2**30 and table.column_names == datasets.PARTS[data]
    os.truncate(paths[0], 1000)
    assert pq.read_table(datasets.parts(data, 0.0001, tmp_path)[0]).equals(table)
    if data == "flights":
        both = [pq.read_table(path) for path in datasets.parts(data, 1.5 * table.nbytes / 2**30, tmp_path)]
        assert [set(part["year"].to_pylist()) for part in both] == [{2013}, {2014}]


def test_a_bound_in_which_no_engine_starts_is_refused_before_anything_starts():
    """The notebook's metadata have the least need and the names that the technique has; one sentence and exit 2."""
    choices = notebooks.read(ROOT / "notebooks" / "01_bigger_than_memory.ipynb").choices
    assert choices["memory_gib"][0] == min(bigger.NEEDS_GIB.values()) and choices["data"] == [*datasets.PARTS]
    assert set(choices["engines"]) == bigger.NEEDS_GIB.keys() == bigger.ENGINES.keys()
    command = [sys.executable, "-m", "kit.cli", "run", "01_bigger_than_memory", "-p", "memory_gib=0.05"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "memory_gib can't be 0.05; give a number from 0.25" in done.stderr
    assert len(done.stderr.splitlines()) == 1
