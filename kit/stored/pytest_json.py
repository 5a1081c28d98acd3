"""Reads what pytest-benchmark writes as records: times with intervals, and no speed-up, for nothing took turns there.

pytest-benchmark measures all rounds of one test and then all of the next, in one process, without a control. So each
test is a session of its own, without noise floor; a test of a group is a variant of that group's comparison and has no
effect and no verdict. The host's name, which its JSON holds, is left out.
"""

import hashlib
import math
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import msgspec

from kit.errors import UserError
from kit.record import store, words
from kit.record.document import Asked, Git, How, Machine, Point, Readings, Record, Session, Table, Variant

NOTEBOOK = "pytest-benchmark"
"""Stands where a notebook's name stands."""
TOOL = "pytest-benchmark"
MOST_READINGS = 1000
"""Of one test: where it has more, each is the median of so many consecutive ones that there are no more."""
NO_SPEEDUP = "pytest-benchmark measures one test after the other, so no speed-up is claimed; its time stands alone"


@dataclass(frozen=True)
class Timed:
    """One test. seconds: of one call, in each round; empty where the JSON was saved without them."""

    name: str
    fullname: str
    group: str | None
    seconds: list[float]
    median_s: float | None
    quartiles_s: tuple[float, float] | None = None
    rounds: int = 0
    iterations: int = 1
    parameters: dict[str, Any] = field(default_factory=dict)
    failed: str = ""


class _Stats(msgspec.Struct, frozen=True):
    median: float
    q1: float | None = None
    q3: float | None = None
    rounds: int = 0
    iterations: int = 1
    data: list[float] = []


class _Benchmark(msgspec.Struct, frozen=True):
    name: str
    fullname: str
    stats: _Stats
    group: str | None = None
    params: dict[str, Any] | None = None


class _Document(msgspec.Struct, frozen=True):
    machine_info: dict[str, Any]
    benchmarks: list[_Benchmark]
    commit_info: dict[str, Any] = {}
    datetime: str = ""
    version: str = ""


def is_one(text: bytes) -> bool:
    """Return whether a text may be pytest-benchmark's JSON."""
    return b'"machine_info"' in text and b'"benchmarks"' in text


def records(text: bytes, name: str = "benchmarks") -> list[Record]:
    """Return the records in pytest-benchmark's JSON, one a group. Raise UserError if it is none."""
    try:
        document = msgspec.json.decode(text, type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{name}: it is not a JSON of pytest-benchmark: {words.shown(error)}") from None
    tests = [_timed(benchmark) for benchmark in document.benchmarks]
    versions = {TOOL: words.shown(document.version, 40)} if document.version else {}
    git, on = _git(document.commit_info), _machine(document.machine_info)
    return [record(*one, on, versions, git, _written(document.datetime)) for one in grouped(tests)]


def _timed(benchmark: _Benchmark) -> Timed:
    stats = benchmark.stats
    quartiles = (stats.q1, stats.q3) if stats.q1 is not None and stats.q3 is not None else None
    return Timed(
        benchmark.name, benchmark.fullname, benchmark.group, stats.data, stats.median, quartiles, stats.rounds,
        stats.iterations, benchmark.params or {},
    )  # fmt: skip


def grouped(tests: list[Timed]) -> list[tuple[str, list[Timed]]]:
    """Return the tests by comparison: those of a group together, each other one alone under its full name."""
    found: dict[str, list[Timed]] = {}
    for test in tests:
        found.setdefault(test.group or test.fullname, []).append(test)
    return list(found.items())


def record(
    comparison: str,
    tests: list[Timed],
    machine: Machine,
    versions: dict[str, str],
    git: Git | None,
    written: str,
    threads: int = 0,
) -> Record:
    """Return one comparison as a record. threads: allowed to it; 0 where that is not known."""
    same = {test.name for test in tests}
    names = [test.name if len(same) == len(tests) else test.fullname for test in tests]
    sessions = [_session(name, test) for name, test in zip(names, tests, strict=True)]
    variants = [_variant(place, name, test) for place, (name, test) in enumerate(zip(names, tests, strict=True))]
    identity = hashlib.blake2b(repr((comparison, written, [t.median_s for t in tests])).encode(), digest_size=8)
    return Record(
        id=f"{''.join(c for c in written if c.isalnum())}-{identity.hexdigest()}",
        written=written,
        complete=True,
        asked=Asked(
            comparison=words.shown(comparison, 200),
            notebook=NOTEBOOK,
            title=f"{len(tests)} tests, each by itself" if len(tests) > 1 else "",
            baseline=names[0],
            sizes=[None],
            parameters=store.clean(tests[0].parameters) if len(tests) == 1 else {},
        ),
        machine=machine,
        versions=versions,
        git=git,
        how=How(
            kit="", seed=0, seconds=0.0, target=0.03, alpha=0.05, max_looks=1, max_rounds=max(t.rounds for t in tests),
            threads=threads, limit_s=0.0, isolated=False,
        ),
        points=[Point(size=None, seed=0, together=False, seconds=_spent(tests), sessions=sessions, variants=variants)],
        exhibits=[_table(tests, names)],
        extra={"tool": TOOL},
    )  # fmt: skip


def _spent(tests: list[Timed]) -> float:
    return sum(test.iterations * sum(test.seconds) for test in tests)


def _session(name: str, test: Timed) -> Session:
    seconds = _readings(test.seconds)
    nothing = [None] * len(seconds)
    readings = Readings(wall_s=seconds, cpu_s=nothing, switches=nothing)
    return Session(
        variants=[name], order=[], looks=[], starts=[0], readings={name: readings}, noise=None, noise_floor=None,
        stopped="rounds", load=[], steal=[],
    )  # fmt: skip


def _together(count: int) -> int:
    return math.ceil(count / MOST_READINGS) or 1


def _readings(seconds: list[float]) -> list[float]:
    every = _together(len(seconds))
    return [median(seconds[start : start + every]) for start in range(0, len(seconds), every)]


def _variant(place: int, name: str, test: Timed) -> Variant:
    if test.failed or test.median_s is None:
        return Variant(name=name, state="failed", verdict="failed", reason=words.shown(test.failed or "it has no time"))
    return Variant(
        name=name,
        state="measured",
        verdict="baseline" if place == 0 else "unresolved",
        reason="" if place == 0 else NO_SPEEDUP,
        session=place,
        warm_s=test.median_s,
        repeats=test.iterations * _together(len(test.seconds)),
        metrics={"rounds": float(test.rounds)},
    )


def _table(tests: list[Timed], names: list[str]) -> Table:
    rows = [[name, *map(words.duration, (t.median_s, *interval(t))), t.rounds]
            for name, t in zip(names, tests, strict=True)]  # fmt: skip
    note = "95 % interval of the median over rounds in one process: another run of the same test may lie outside it."
    return Table("Times by pytest-benchmark", ["test", "median", "from", "to", "rounds"], rows, note)


def interval(test: Timed) -> tuple[float | None, float | None]:
    """Return the 95 % interval of the median: by order statistics, or from the quartiles where there is no more
    (McGill, Tukey and Larsen, The American Statistician 32, 1978)."""
    if test.seconds:
        from kit.record.intervals import sign_test_interval

        return sign_test_interval(test.seconds, 0.95) or (None, None)
    if test.quartiles_s is None or test.median_s is None or test.rounds < 6:
        return None, None
    reach = 1.57 * (test.quartiles_s[1] - test.quartiles_s[0]) / math.sqrt(test.rounds)
    return max(0.0, test.median_s - reach), test.median_s + reach


def _machine(info: dict[str, Any]) -> Machine:
    cpu = info.get("cpu") if isinstance(info.get("cpu"), dict) else {}
    brand = words.shown(cpu.get("brand_raw") or cpu.get("brand") or info.get("processor") or "unknown processor", 80)
    cores = cpu.get("count") if isinstance(cpu.get("count"), int) and cpu.get("count") > 0 else 1
    arch = words.shown(info.get("machine") or "", 20)
    return Machine(
        key=hashlib.sha256(repr((TOOL, brand, cores, arch)).encode()).hexdigest()[:10],
        cpu=brand,
        cores=cores,
        cores_total=cores,
        memory_mib=0.0,
        memory_limit_mib=None,
        system=words.shown(f"{info.get('system', '')} {info.get('release', '')}".strip(), 80),
        arch=arch,
        python=words.shown(info.get("python_version") or "", 20),
    )


def _git(info: dict[str, Any]) -> Git | None:
    commit = info.get("id")
    known = isinstance(commit, str) and commit not in ("", "unversioned", "unknown")
    return Git(commit=words.shown(commit, 64), dirty=bool(info.get("dirty"))) if known else None


def _written(text: str) -> str:
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return words.shown(text, 30)
    return f"{(moment.astimezone(UTC) if moment.tzinfo else moment):%Y-%m-%dT%H:%M:%SZ}"
