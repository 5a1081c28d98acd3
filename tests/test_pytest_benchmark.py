"""pytest-benchmark's findings are records too: read from its JSON, or kept by the kit's plugin."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kit import compare, report
from kit.errors import UserError
from kit.record import store
from kit.runs import files, pytest_benchmark

pytestmark = pytest.mark.alone  # under pytest-xdist, pytest-benchmark measures nothing

SUITE = """
import pytest

@pytest.mark.benchmark(group="sums")
def test_builtin(benchmark):
    assert benchmark(sum, range(100)) == 4950

@pytest.mark.benchmark(group="sums")
def test_loop(benchmark):
    def loop():
        total = 0
        for n in range(100):
            total += n
        return total
    assert benchmark(loop) == 4950

@pytest.mark.parametrize("n", [10, 100])
def test_sorted(benchmark, n):
    benchmark(sorted, list(range(n)))

def test_plain():
    pass
"""


def run(folder: Path, *options: str) -> subprocess.CompletedProcess:
    (folder / "test_suite.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    command += ["--benchmark-max-time=0.02", "--benchmark-min-rounds=10"]
    environment = os.environ | {"KIT_PROBE_S": "0.05"}
    return subprocess.run([*command, "test_suite.py"], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Path:
    """A folder in which a suite of benchmarks ran twice, once with pytest-benchmark's JSON and both times kept."""
    folder = tmp_path_factory.mktemp("suite")
    for name in ("before", "after"):
        done = run(folder, "-p", "kit.pytest_plugin", "--kit-runs", name, f"--benchmark-json={name}.json")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "kit: 2 records in" in done.stdout
    return folder


def records(place: Path) -> list:
    unreadable: list = []
    found = [record for _, record in files.read_records(files.find([str(place)]).records, unreadable)]
    assert not unreadable
    return sorted(found, key=lambda record: record.asked.comparison)


@pytest.mark.parametrize("place", ["before", "before.json"])
def test_a_group_is_a_comparison(suite, place):
    """A group is one comparison under its name with its tests as variants; the tests without a group are another."""
    found = records(suite / place)
    assert [r.asked.comparison for r in found] == ["sums", "tests without a group"]
    names = [[v.name for v in record.points[0].variants] for record in found]
    assert names == [["test_builtin", "test_loop"], ["test_sorted[10]", "test_sorted[100]"]]
    written = {b["name"]: b["stats"]["median"] for b in json.loads((suite / "before.json").read_text())["benchmarks"]}
    assert {v.name: v.median_s for record in found for v in record.points[0].variants} == pytest.approx(written)


@pytest.mark.parametrize("place", ["before", "before.json"])
def test_no_speed_up_is_claimed(suite, place, tmp_path):
    """What did not take turns has times with intervals, no noise floor, and no verdict of faster or slower; nor has its
    report a recommendation."""
    sums = records(suite / place)[0]
    point = sums.points[0]
    assert [v.verdict for v in point.variants] == ["baseline", "inconclusive"]
    assert all(v.effect is None and v.median_s > 0 for v in point.variants)
    assert all(s.noise is None and s.noise_floor is None and not s.order for s in point.sessions)
    for variant, session in zip(point.variants, point.sessions, strict=True):
        seconds = session.measurements[variant.name].wall_s
        assert 10 <= len(seconds) <= pytest_benchmark.MOST_READINGS
        assert min(seconds) <= variant.median_s <= max(seconds)
    page = report.write([str(suite / place)], str(tmp_path / "report")).with_name("report.md").read_text()
    assert page.count("**Pytest-benchmark: Times only**") == 2 and page.count("| measured |") == 4
    assert "test_loop" in page and "sorted\\[100\\]" in page and not re.search(r"as fast|takes \d|No winner", page)


def test_the_plugin_probes_the_machine(suite):
    """Kept records know their machine and what it could do in that session; no host's name is in them."""
    import platform

    for record in records(suite / "before"):
        assert record.machine.peaks["memory_copy_gib_per_s"] > 0
        assert record.versions["pytest-benchmark"]
    text = b"".join(path.read_bytes() for path in (suite / "before").rglob("*.json"))
    host = platform.node()
    assert len(host) < 4 or not re.search(rb"\b" + re.escape(host.encode()) + rb"\b", text)


def test_two_sessions_are_compared_by_times(suite, monkeypatch):
    """Two kept sessions are compared by times where the probes agree; two plain JSONs have
    both times and the command that makes them comparable."""
    monkeypatch.chdir(suite)
    kept = compare.between("before", "after")
    assert {row.by for row in kept.rows} <= {"time", ""}
    plain = compare.between("before.json", "after.json")
    assert {row.verdict for row in plain.rows} == {"not comparable"}
    assert all(all(row.seconds) for row in plain.rows)
    assert "to compare, keep both with `pytest -p kit.pytest_plugin --kit-runs runs`" in repr(plain).replace(
        "\n  ", " "
    )


def test_a_slower_test_is_told(suite, tmp_path, monkeypatch):
    """A test that takes three times as long, with little noise, is slower if the machine was in the same state."""
    import msgspec

    for name, factor in (("equivalent", 1.0), ("slower", 3.0)):
        for record in records(suite / "before"):
            point = record.points[0]
            sessions = [_times(session, factor) for session in point.sessions]
            changed = msgspec.structs.replace(
                record, id=f"{name}-{record.id}", points=[msgspec.structs.replace(point, sessions=sessions)]
            )
            store.write(changed, tmp_path / name / "records")
    monkeypatch.chdir(tmp_path)
    verdicts = {row.verdict for row in compare.between("equivalent", "slower").rows}
    assert "slower" in verdicts and "faster" not in verdicts
    assert compare.main("equivalent", "slower", "runs", None, True) == 1


def _times(session, factor: float):
    import msgspec

    wall_s = [factor * (1 + number % 5 / 1_000) for number in range(30)]
    measurements = {name: msgspec.structs.replace(one, wall_s=wall_s) for name, one in session.measurements.items()}
    return msgspec.structs.replace(session, measurements=measurements)


def test_many_tests_are_one_table(suite, tmp_path, capsys):
    """A line per test in a terminal, a row in the report, which calls no test the baseline; NaN in extra_info, a byte
    order mark and the folder where pytest-benchmark saves are no hindrance; what a JSON lacks is not zero."""
    document = json.loads((suite / "before.json").read_text()) | {"machine_info": {}}
    one = document["benchmarks"][-1] | {"extra_info": {"loss": float("nan")}}
    del one["stats"]["data"]
    document["benchmarks"] = [one | {"name": f"test_case[{n}]", "group": None} for n in range(200)]
    place = tmp_path / "project/.benchmarks/Linux-64bit/0001_x.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(document), encoding="utf-8-sig")
    assert compare.main(str(tmp_path / "project"), str(place.parent), "runs") == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) < 210 and max(map(len, printed.splitlines())) <= 80
    assert records(place)[0].points[0].sessions[0].measurements["test_case[0]"].wall_s == []
    html = report.write([str(place)], str(tmp_path / "report"))
    page = html.with_name("report.md").read_text()
    assert html.read_text().count("test_case[") >= 120 and "160 rows more in the record" in page
    assert page.count("test_case") == page.count("| measured |") == 40 and "| baseline |" not in page
    assert "unknown processor, 2" in page and "0 MiB" not in page and "core" not in page and "GPU" not in page


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b'{"machine_info": 1, "benchmarks": []}',
        b'{"machine_info": {"cpu": ["x"], "system": 3}, "benchmarks": []}',
        b'{"machine_info": {}, "benchmarks": [{"name": "x"}]}',
        b'{"machine_info": {}, "datetime": "", "benchmarks": [{"name": "x", "fullname": "x", "stats": {"median": NaN, '
        b'"rounds": 1}}]}',
        b'{"machine_info": {}, "benchmarks": ' + b"[" * 100_000,
    ],
)
def test_what_is_no_json_of_it_is_refused(text, tmp_path):
    """What is no JSON of pytest-benchmark is refused in one sentence, and counted as unreadable."""
    with pytest.raises(UserError):
        pytest_benchmark.records(text)
    (tmp_path / "x.json").write_bytes(text)
    unreadable: list = []
    assert not list(files.read_records(files.find([str(tmp_path)]).records, unreadable))
    assert len(unreadable) == 1


EVIL = "<script>evil()"


def test_hostile_json_is_read_as_text(tmp_path):
    """Whatever a JSON names itself is text, and the host's name is left out."""
    hostile = {
        "machine_info": {"cpu": {"brand_raw": EVIL}, "system": EVIL, "node": "secret-host"},
        "commit_info": {"id": EVIL},
        "datetime": "<b>",
        "benchmarks": [{"name": EVIL, "fullname": EVIL, "stats": {"median": 1e-3, "rounds": 9}}],
    }
    (tmp_path / "x.json").write_text(json.dumps(hostile))
    record = records(tmp_path)[0]
    assert record.git.commit == record.machine.cpu == EVIL and record.machine.cores is None
    assert b"secret-host" not in store.write(record, tmp_path / "out").read_bytes()
    html = report.write([str(tmp_path / "x.json")], str(tmp_path / "report")).read_text()
    assert "<script>evil" not in html


def test_nothing_is_left_without_the_option(tmp_path):
    """Without `--kit-runs` the plugin does nothing; with it and no benchmark it says so and writes nothing."""
    assert run(tmp_path, "-p", "kit.pytest_plugin").returncode == 0
    assert {path.name for path in tmp_path.iterdir()} <= {"test_suite.py", "__pycache__", ".benchmarks"}
    done = run(tmp_path, "-p", "kit.pytest_plugin", "--kit-runs", "runs", "-k", "plain")
    assert done.returncode == 0 and "no record was written" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_a_failed_test_is_a_failed_variant(tmp_path):
    """A test that fails after it was timed is kept as failed: its time is no claim."""
    (tmp_path / "test_bad.py").write_text("def test_bad(benchmark):\n    assert benchmark(sum, [1]) == 2\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "kit.pytest_plugin", "test_bad.py"]
    done = subprocess.run(
        [*command, "--kit-runs", "runs", "--benchmark-max-time=0.02"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    variant = records(tmp_path / "runs")[0].points[0].variants[0]
    assert (variant.state, variant.median_s, variant.reason) == ("failed", None, "its test failed")
