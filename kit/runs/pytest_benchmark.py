"""Reads what pytest-benchmark writes as records: times, and no speed-up, for nothing took turns there.

pytest-benchmark measures all rounds of one test and then all of the next, in one process, without a control. So each
test is a session of its own, without noise floor; a test of a group is a variant of that group's comparison, one
without a group of the comparison `UNGROUPED`, and has no effect. The host's name, which its JSON holds, is left out.
"""

import hashlib
import json
from collections import Counter
from statistics import median

import msgspec

from kit.errors import UserError
from kit.record import formatting as fmt
from kit.record.document import Asked, Git, How, Machine, Measurements, Point, Record, Session, Variant

NOTEBOOK = TOOL = "pytest-benchmark"
MOST_READINGS = 1000  # of one test: where it has more, each is the median of so many consecutive ones
UNGROUPED = "tests without a group"


class Stats(msgspec.Struct, frozen=True):
    """data: seconds of one call, in each round; empty where the JSON was saved without them."""

    median: float
    rounds: int
    iterations: int = 1
    data: list[float] = []


class Benchmark(msgspec.Struct, frozen=True):
    """One test, as pytest-benchmark writes it. failed: why its time is no claim."""

    name: str
    fullname: str
    stats: Stats
    group: str | None = None
    failed: str = ""


class _Cpu(msgspec.Struct, frozen=True):
    brand_raw: str = "unknown processor"
    count: int | None = None


class _Machine(msgspec.Struct, frozen=True):
    cpu: _Cpu = _Cpu()
    machine: str = ""
    system: str = ""
    release: str = ""
    python_version: str = ""


class _Commit(msgspec.Struct, frozen=True):
    id: str = "unknown"
    dirty: bool = False


class _Document(msgspec.Struct, frozen=True):
    machine_info: _Machine
    benchmarks: list[Benchmark]
    datetime: str
    commit_info: _Commit = _Commit()
    version: str = ""


def records(text: bytes, name: str = "benchmarks") -> list[Record]:
    """Return the records in pytest-benchmark's JSON, one per group. Raise UserError if it is none.

    A byte order mark and what JSON has no word for, NaN and infinities, are taken: Python's own JSON writes them.
    """
    try:
        document = msgspec.convert(json.loads(text, parse_constant=lambda _: None), _Document)
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise UserError(f"{name}: it is not a JSON of pytest-benchmark: {fmt.shown(error)}") from None
    commit, written = document.commit_info, f"{document.datetime[:19]}Z"  # it writes UTC
    git = Git(commit=commit.id, dirty=commit.dirty) if commit.id not in ("unversioned", "unknown") else None
    about = _machine(document.machine_info), {TOOL: document.version}, git, written
    return [record(*one, *about) for one in grouped(document.benchmarks)]


def grouped(tests: list[Benchmark]) -> list[tuple[str, list[Benchmark]]]:
    """Return the tests by comparison: those of a group together, and those without one."""
    found: dict[str, list[Benchmark]] = {}
    for test in tests:
        found.setdefault(test.group or UNGROUPED, []).append(test)
    return list(found.items())


def record(
    comparison: str, tests: list[Benchmark], machine: Machine, versions: dict[str, str], git: Git | None, written: str,
    threads: int = 0,
) -> Record:  # fmt: skip
    """Return one comparison as a record. threads: allowed to it; 0 where that is not known."""
    times = Counter(test.name for test in tests)
    names = [test.fullname if times[test.name] > 1 else test.name for test in tests]
    medians = [test.stats.median for test in tests]
    identity = hashlib.blake2b(repr((comparison, written, medians)).encode(), digest_size=8).hexdigest()
    point = Point(
        size=None,
        seed=0,
        together=False,
        seconds=sum(test.stats.iterations * sum(test.stats.data) for test in tests),
        sessions=[_session(*one) for one in zip(names, tests, strict=True)],
        variants=[_variant(place, *one) for place, one in enumerate(zip(names, tests, strict=True))],
    )
    return Record(
        id=f"{''.join(c for c in written if c.isalnum())}-{identity}",
        written=written,
        complete=True,
        asked=Asked(comparison=comparison, notebook=NOTEBOOK, baseline=names[0], sizes=[None]),
        machine=machine,
        versions=versions,
        git=git,
        how=How(
            kit="", seed=0, time_budget_s=0.0, equivalence_margin=0.03, alpha=0.05, max_interim_analyses=1,
            max_rounds=max(t.stats.rounds for t in tests),
            threads=threads, timeout_s=0.0, isolated=False,
        ),
        points=[point],
        extra={"tool": TOOL},
    )  # fmt: skip


def _session(name: str, test: Benchmark) -> Session:
    data = test.stats.data
    each = len(data) // (MOST_READINGS + 1) + 1
    seconds = [median(data[start : start + each]) for start in range(0, len(data), each)]
    return Session(
        variants=[name], order=[], interim_analyses=[], starts=[0], noise=None, noise_floor=None, stopped="rounds",
        measurements={name: Measurements(wall_s=seconds)}, load=[],
    )  # fmt: skip


def _variant(place: int, name: str, test: Benchmark) -> Variant:
    if test.failed:
        return Variant(name=name, state="failed", verdict="failed", reason=test.failed)
    return Variant(
        name=name,
        state="measured",
        verdict="inconclusive" if place else "baseline",
        session=place,
        median_s=test.stats.median,
        repeats=test.stats.iterations,
        metrics={"rounds": float(test.stats.rounds)},
    )


def _machine(on: _Machine) -> Machine:
    known = on.cpu.brand_raw, on.cpu.count, on.machine
    return Machine(
        key=hashlib.sha256(repr((TOOL, *known)).encode()).hexdigest()[:10], cpu=on.cpu.brand_raw, cores=on.cpu.count,
        cores_total=on.cpu.count, memory_mib=None, memory_limit_mib=None, system=f"{on.system} {on.release}",
        arch=on.machine, python=on.python_version,
    )  # fmt: skip
