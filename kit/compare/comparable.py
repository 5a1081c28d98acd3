"""What two records allow to compare: by their machines, the peaks measured at the time, versions and parameters."""

import math
from dataclasses import dataclass

from kit.record import formatting as fmt
from kit.record.document import Machine, Record
from kit.runs import select

AGREE = 0.25
"""Probes of one machine agree if they differ by no more, as a log: on a shared machine of two cores half of the
sessions lie within 0.16 of their median. No change of times below the difference of the probes counts; of 10,589 pairs
of sessions of one program, probes within 0.3, 0.7 % were then significantly different."""
PROBES = ("memory_copy_gib_per_s", "matrix_product_fp32_gflop_per_s")
"""What every session measures, independent of file caches and of other programs' ports."""


@dataclass(frozen=True)
class Ground:
    """What may be claimed of two records."""

    same_machine: bool
    probes: float | None
    """By what the probes differ, as a log: no change of times below it counts. Null: times aren't comparable."""
    why_not: str
    """Why times aren't comparable."""
    no_speedups: str
    """Why speed-ups over the baseline aren't comparable; empty if they are."""
    differences: tuple[str, ...]
    """What else differs, a clause each."""


def ground(a: Record, b: Record) -> Ground:
    """Return what A and B allow to compare."""
    probes, why = _times(a, b)
    return Ground(a.machine.key == b.machine.key, probes, why, _no_speedups(a, b), _differences(a, b))


def _times(a: Record, b: Record) -> tuple[float | None, str]:
    """Return by what the probes differ, or None and why times aren't comparable."""
    if not all(record.how.isolated or "tool" in record.extra for record in (a, b)):
        return None, "measured in one process (isolate=False), for debugging"
    if not all(record.machine.memory_mib for record in (a, b)):
        plugin = "`pytest -p kit.pytest_plugin --kit-runs runs`"
        return None, f"a JSON of pytest-benchmark lacks the machine's state; to compare, keep both with {plugin}"
    if a.machine.key != b.machine.key:
        return None, f"another machine: {_machine(a.machine)} before, {_machine(b.machine)} after"
    if a.how.threads != b.how.threads and a.how.threads and b.how.threads:
        return None, f"{a.how.threads} threads before, {b.how.threads} after"
    both = {probe: (a.machine.peaks.get(probe), b.machine.peaks.get(probe)) for probe in PROBES}
    gaps = {probe: math.log(y / x) for probe, (x, y) in both.items() if x and y and x > 0 and y > 0}
    if not gaps:
        return None, "the machine's peaks were not measured in both sessions"
    probe, gap = max(gaps.items(), key=lambda found: abs(found[1]))
    if abs(gap) > AGREE:
        change = f"{fmt.peak(probe, None)[0]} was {fmt.times(math.exp(gap))} as fast"
        return None, f"the machine was in another state: its {change}"
    return abs(gap), ""


def _machine(one: Machine) -> str:
    gpus = "".join(f" + {gpu.name}" for gpu in one.gpus[:2])
    return fmt.shown(f"{fmt.count(one.cores, 'cores')} of {one.cpu}{gpus}", 70)


def _no_speedups(a: Record, b: Record) -> str:
    if any("tool" in record.extra for record in (a, b)):
        return "measured one after another by another tool"
    if not a.how.isolated or not b.how.isolated:
        return "measured in one process (isolate=False), for debugging"
    before, after = a.asked.baseline, b.asked.baseline
    if before != after:
        return f"the baseline was {fmt.shown(before, 40)} and is {fmt.shown(after, 40)}"
    return f"the code of the baseline, {fmt.shown(before, 40)}, changed" if other_source(a, b, before) else ""


def other_source(a: Record, b: Record, name: str) -> bool:
    """Return whether the code of a variant is known on both sides, and not the same."""
    before, after = a.asked.sources.get(name), b.asked.sources.get(name)
    return bool(before and after and before != after)


def _differences(a: Record, b: Record) -> tuple[str, ...]:
    """Return what differs, apart from the machine, what matters most first: `pandas 3.0.5 → 3.0.6`."""
    old, new = a.asked.parameters, b.asked.parameters
    pairs = [(f"{fmt.shown(n, 40)}:", _value(old.get(n)), _value(new.get(n))) for n in select.differing([old, new])]
    pairs += [(n, version, b.versions.get(n, version)) for n, version in a.versions.items()]
    pairs += [
        ("commit", _commit(a), _commit(b)), ("Python", a.machine.python, b.machine.python),
        ("", a.machine.system, b.machine.system), ("threads", a.how.threads, b.how.threads),
    ]  # fmt: skip
    return tuple(fmt.shown(f"{name} {x} → {y}") for name, x, y in pairs if x != y and all((x, y)))


def _value(parameter: object) -> str:
    return "—" if parameter is None else fmt.shown(select.value(parameter), 40)


def _commit(record: Record) -> str:
    return "unknown" if record.git is None else record.git.commit[:7] + (" with changes" if record.git.dirty else "")
