"""What two records allow to compare: by their machines, what these could do at the time, versions and parameters."""

import math
from dataclasses import dataclass

from kit.record import words
from kit.record.document import Machine, Record
from kit.stored import choose

AGREE = 0.25
"""Probes of one machine agree if they differ by no more: on a shared machine of two cores half of the sessions lie
within 0.16 of their middle. What they do differ by no change of times is believed to pass, so that of 10,589 pairs of
sessions of one program, probes within 0.3, 0.7 % were called different."""
LEAST_TOLERANT, MOST_TOLERANT = 0.10, 0.30
"""Bounds of the tolerance where four sessions or more tell how the probes of this machine scatter."""
PROBES = ("memory_copy_gib_per_s", "matrix_product_fp32_gflop_per_s")
"""What every session measures, and what no cache of files and no other program's port is in the way of."""
MOST_SAID = 8


@dataclass(frozen=True)
class Ground:
    """What may be claimed of two records."""

    same_machine: bool
    probes: float | None
    """By what the probes differ, as a log: no change of times under it is believed. Null: times aren't comparable."""
    why_not: str
    """Why times aren't comparable."""
    untold: str
    """What is said of times that aren't comparable: `cannot be told` on the same machine, else `not comparable`."""
    alone: bool
    """Whether variants were measured one after the other, so that none is held against another."""
    baseline: str
    """Why the baseline is another one, so that speed-ups aren't comparable; empty if it is the same."""
    units: str
    """Why the sizes are others, as `sizes in rows before, in MiB after`; empty if they count the same."""
    said: tuple[str, ...]
    """What else differs, a clause each."""


def ground(a: Record, b: Record, scatter: dict[str, float] | None = None) -> Ground:
    """Return what A and B allow to compare. scatter: how the probes of this machine scatter, see `scatter`."""
    same = a.machine.key == b.machine.key
    threads = a.how.threads != b.how.threads and 0 not in (a.how.threads, b.how.threads)
    if not same:
        probes, why = None, _machines(a.machine, b.machine)
    elif threads:
        probes, why = None, f"{a.how.threads} threads before, {b.how.threads} after"
    else:
        probes, why = _probes(a.machine, b.machine, scatter or {})
    untold = "cannot be told" if same and not threads else "not comparable"
    said = tuple(differences(a, b))
    return Ground(same, probes, why, untold, alone(a) or alone(b), _baseline(a, b), _units(a, b), said)


def _units(a: Record, b: Record) -> str:
    before, after = (words.shown(record.asked.unit, 40) or "nothing" for record in (a, b))
    return f"sizes in {before} before, in {after} after" if before != after else ""


def _machines(a: Machine, b: Machine) -> str:
    if not a.memory_mib or not b.memory_mib:
        return "a JSON of pytest-benchmark does not tell the whole machine"
    return f"another machine: {name(a)} before, {name(b)} after"


def name(machine: Machine) -> str:
    """Return a machine in a few words: `2 cores of AMD EPYC`."""
    gpus = "".join(f" + {gpu.name}" for gpu in machine.gpus[:2])
    return words.shown(f"{machine.cores} {'core' if machine.cores == 1 else 'cores'} of {machine.cpu}{gpus}", 70)


def _probes(a: Machine, b: Machine, scatter: dict[str, float]) -> tuple[float | None, str]:
    gaps = {probe: _gap(a.ceilings.get(probe), b.ceilings.get(probe)) for probe in PROBES}
    known = {probe: gap for probe, gap in gaps.items() if gap is not None}
    if not known:
        return None, "what the machine could do was not probed in both sessions"
    for probe, gap in known.items():
        if abs(gap) > _tolerance(scatter.get(probe)):
            what, _ = words.ceiling_name(probe)
            return None, f"the machine was in another state: its {what} went at {words.times(math.exp(gap))}"
    return max(abs(gap) for gap in known.values()), ""


def _tolerance(scatter: float | None) -> float:
    return AGREE if scatter is None else min(max(LEAST_TOLERANT, 2 * scatter), MOST_TOLERANT)


def _gap(a: float | None, b: float | None) -> float | None:
    return math.log(b / a) if a and b and a > 0 and b > 0 else None


def scatter(records: list[Record]) -> dict[str, float]:
    """Return by how much the probes of one machine scatter between sessions, as logs: their median distance from their
    median; nothing under four sessions."""
    from statistics import median

    found = {}
    for probe in PROBES:
        rates = {record.machine.ceilings.get(probe) for record in records}  # the runs of a batch share a session
        logs = [math.log(rate) for rate in rates if rate and rate > 0]
        if len(logs) >= 4:
            found[probe] = median(abs(log - median(logs)) for log in logs)
    return found


def _baseline(a: Record, b: Record) -> str:
    before, after = a.asked.baseline, b.asked.baseline
    if before != after:
        return f"the baseline was {words.shown(before, 40)} and is {words.shown(after, 40)}"
    sources = a.asked.sources.get(before), b.asked.sources.get(after)
    if all(sources) and sources[0] != sources[1]:
        return f"the code of the baseline, {words.shown(before, 40)}, changed"
    return ""


def differences(a: Record, b: Record) -> list[str]:
    """Return what differs beside the machine, what matters most first."""
    said = []
    names = choose.differing([a.asked.parameters, b.asked.parameters])[:MOST_SAID]
    pairs = [(n, a.asked.parameters.get(n), b.asked.parameters.get(n)) for n in names]
    said += [f"{words.shown(n, 40)}: {_value(before)} → {_value(after)}" for n, before, after in pairs]
    said += versions(a, b)
    if a.git != b.git:
        said.append(f"commit {_commit(a)} → {_commit(b)}")
    if a.how.kit != b.how.kit and a.how.kit and b.how.kit and "ml-scaling-kit" not in {**a.versions, **b.versions}:
        said.append(f"kit {a.how.kit} → {b.how.kit}")
    if a.machine.python != b.machine.python:
        said.append(f"Python {a.machine.python} → {b.machine.python}")
    if a.machine.system != b.machine.system:
        said.append(f"{a.machine.system} → {b.machine.system}")
    if a.how.threads != b.how.threads and 0 not in (a.how.threads, b.how.threads):
        said.append(f"threads {a.how.threads} → {b.how.threads}")
    return [words.shown(text) for text in said]


def _value(parameter) -> str:
    return "—" if parameter is None else words.shown(choose.value(parameter), 40)


def _commit(record: Record) -> str:
    if record.git is None:
        return "unknown"
    return record.git.commit[:7] + (" with changes" if record.git.dirty else "")


def versions(a: Record, b: Record) -> list[str]:
    """Return the packages whose versions differ where both tell them: `pandas 3.0.5 → 3.0.6`."""
    names = [n for n in a.versions if n in b.versions and a.versions[n] != b.versions[n]]
    said = [f"{n} {a.versions[n]} → {b.versions[n]}" for n in names]
    return [*said[:MOST_SAID], *([f"{len(said) - MOST_SAID} more packages"] if len(said) > MOST_SAID else [])]


def alone(record: Record) -> bool:
    """Return whether its variants were measured one after the other, so that none is held against another."""
    return record.extra.get("tool") is not None


def unfit(record: Record) -> str:
    """Return why nothing may be claimed of a record at all; empty if it may."""
    if not record.how.isolated and not alone(record):
        return "it was measured in one process (isolate=False), for debugging"
    return ""
