"""Builds whole, valid records for tests, with measurements as they could have been measured: log-normal, paired."""

import math
import random
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from kit.record.document import (
    Asked,
    CheckResult,
    Effect,
    ExecutionProof,
    Git,
    Gpu,
    How,
    Machine,
    Measurements,
    Memory,
    Point,
    Record,
    Scaling,
    Session,
    Variant,
)

SECONDS_PER_ROW = 4e-7
"""What the baseline takes for each unit of size, on top of 2 ms."""


@dataclass(frozen=True)
class Made:
    """How a variant shall come out: `ratio` times as fast as the baseline, with `fixed_s` more in every call.

    state: measured, skipped or failed. broken, fell_back: why it shall be invalid. not_timed: why it is not
    timed.
    """

    ratio: float = 1.0
    fixed_s: float = 0.0
    memory: float = 1.0
    state: str = "measured"
    reason: str = ""
    remedy: str = ""
    broken: str = ""
    fell_back: str = ""
    not_timed: str = ""
    not_recommended: str = ""
    setup_s: float = 0.2


USUAL = {
    "pandas": Made(),
    "Polars": Made(ratio=6.1, fixed_s=0.004, memory=0.4),
    "DuckDB": Made(ratio=4.2, fixed_s=0.012, memory=0.55, setup_s=0.05),
    "Dask": Made(ratio=1.5, fixed_s=0.09, memory=1.7, setup_s=2.4),
    "cuDF": Made(state="skipped", reason="no NVIDIA driver", remedy="a machine with an NVIDIA GPU and its driver"),
    "Dask-cuDF": Made(state="skipped", reason="no NVIDIA driver", remedy="a machine with an NVIDIA GPU and its driver"),
}
SIZES = [10_000, 100_000, 1_000_000, 10_000_000]


def machine(cpu: str = "Intel Xeon Platinum 8488C", cores: int = 2, gpu: str = "", **changes) -> Machine:
    """Return a machine; its key follows from what it is."""
    return Machine(
        **{
            "key": f"{abs(sum(map(ord, cpu + gpu)) * 7919 + cores):08x}"[:8],
            "cpu": cpu,
            "cores": cores,
            "cores_total": max(cores, 8),
            "memory_mib": 15_872.0,
            "memory_limit_mib": 8_192.0,
            "system": "Linux 6.1",
            "arch": "x86_64",
            "python": "3.11.2",
            "gpus": [Gpu(name=gpu, memory_mib=81_559.0, driver="570.124.06")] if gpu else [],
            "cuda": "13.0" if gpu else None,
            "peaks": {"memory_copy_gib_per_s": 8.4},
        }
        | changes
    )


def make_record(
    variants: dict[str, Made] | None = None,
    *,
    comparison: str = "delays",
    title: str = "Delay features from the flights tables",
    notebook: str = "01_dataframes",
    sizes: list | None = None,
    unit: str = "rows",
    rounds: int = 20,
    noise: float = 0.03,
    seed: int = 1,
    written: str = "2026-11-23T10:20:30Z",
    parameters: dict | None = None,
    on: Machine | None = None,
    id: str | None = None,
    complete: bool = True,
) -> Record:
    """Return a record in which `variants` (by default `USUAL`; the first is the baseline) came out as they are made."""
    variants = USUAL if variants is None else variants
    sizes = SIZES if sizes is None else sizes
    chance = random.Random(seed)
    points = [_point(variants, size, rounds, noise, chance) for size in sizes]
    return Record(
        id=id or f"20261123T102030Z-{seed:08x}",
        written=written,
        complete=complete,
        asked=Asked(
            comparison=comparison,
            notebook=notebook,
            title=title,
            baseline=next(iter(variants)),
            unit=unit,
            sizes=sizes,
            parameters=parameters if parameters is not None else {"sizes": sizes, "seconds": 20, "data": "flights"},
            sources={name: f"def {_identifier(name)}(tables):\n    return lambda: tables" for name in variants},
        ),
        machine=on or machine(),
        versions={"kit": "0.1.0", "pandas": "3.0.6", "polars": "2.1.0", "duckdb": "2.0.0"},
        git=Git(commit="153ad88c0ffee153ad88c0ffee153ad88c0ffee1", dirty=False),
        how=How(
            kit="0.1.0",
            seed=seed,
            time_budget_s=20.0,
            equivalence_margin=0.03,
            alpha=0.05,
            max_interim_analyses=6,
            max_rounds=200,
            threads=2,
            timeout_s=60.0,
            isolated=True,
        ),
        points=points,
        scaling=_scaling(variants, points) if len(sizes) > 1 else {},
    )


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name.lower())


def _point(variants: dict[str, Made], size, rounds: int, noise: float, chance: random.Random) -> Point:
    baseline = next(iter(variants))
    measured = _timed(variants)
    base_s = 0.002 + SECONDS_PER_ROW * float(size or 100_000)
    seconds = {name: base_s / variants[name].ratio + variants[name].fixed_s for name in measured}
    shared = [chance.gauss(0, noise) for _ in range(rounds)]
    taken = [*measured, "A/A"]
    measurements = {n: _readings(seconds.get(n, base_s), shared, noise, chance) for n in taken}
    noise_effect = _effect(measurements[baseline].wall_s, measurements["A/A"].wall_s, chance)
    floor = max(abs(math.log(end)) for end in (noise_effect.low or 0.5, noise_effect.high or 2))
    session = Session(
        variants=taken,
        order=[chance.sample(range(len(taken)), len(taken)) for _ in range(rounds)],
        interim_analyses=[min(rounds, look) for look in (10, 20)],
        measurements=measurements,
        noise=noise_effect,
        noise_floor=floor,
        stopped="settled",
        load=[1.2] * rounds,
        round_s=sum(seconds.values()) + base_s,
        restart_s=0.5,
    )
    made = [_variant(n, m, n == baseline, size, session, baseline, chance) for n, m in variants.items()]
    return Point(size=size, seed=7, seconds=21.5, sessions=[session], variants=made)


def _timed(variants: dict[str, Made]) -> list[str]:
    return [n for n, made in variants.items() if made.state == "measured" and not made.not_timed]


def _readings(typical: float, shared: list[float], noise: float, chance: random.Random) -> Measurements:
    wall = [typical * math.exp(drift + chance.gauss(0, noise / 2)) for drift in shared]
    return Measurements(wall_s=wall)


def _effect(baseline_s: list[float], variant_s: list[float], chance: random.Random) -> Effect:
    ratios = sorted(math.log(b / v) for b, v in zip(baseline_s, variant_s, strict=True))
    n = len(ratios)
    k = math.floor(n / 2 - 2.6 * math.sqrt(n) / 2)
    ends = (math.exp(ratios[k]), math.exp(ratios[n - 1 - k])) if n >= 10 and k >= 0 else (None, None)
    return Effect(
        speedup=math.exp(median(ratios)),
        low=ends[0],
        high=ends[1],
        rounds=n,
        confidence=1 - 0.05 / 6,
        drift=0.05 if n >= 10 else None,
        drift_p=0.8 if n >= 10 else None,
    )


def _variant(name, made: Made, is_baseline: bool, size, session: Session, baseline: str, chance) -> Variant:
    if made.state != "measured":
        return Variant(name=name, state=made.state, verdict=made.state, reason=made.reason, remedy=made.remedy)
    if made.not_timed:
        return Variant(
            name=name,
            state="measured",
            verdict="rejected" if made.broken else "checked, not timed",
            reason=made.broken or made.not_timed,
            setup_s=made.setup_s,
            first_call_s=0.5,
            memory=_memory(made, size),
            check=_quality(made, is_baseline),
            execution_proof=_engagement(made),
        )
    wall = session.measurements[name].wall_s
    effect = None if is_baseline else _effect(session.measurements[baseline].wall_s, wall, chance)
    saved = median(session.measurements[baseline].wall_s) - median(wall)
    extra = max(0.0, made.setup_s - 0.2)
    return Variant(
        name=name,
        not_recommended=made.not_recommended,
        state="measured",
        verdict=_verdict(made, effect, session.noise_floor),
        reason=made.broken or (f"fell back to {made.fell_back}" if made.fell_back else ""),
        session=0,
        setup_s=made.setup_s,
        first_call_s=wall[0] * 1.8,
        median_s=median(wall),
        effect=effect,
        breakeven_calls=None if is_baseline or saved <= 0 else extra / saved,
        memory=_memory(made, size),
        check=_quality(made, is_baseline),
        execution_proof=_engagement(made),
    )


def _verdict(made: Made, effect: Effect | None, floor: float) -> str:
    if effect is None:
        return "baseline"
    if made.broken or made.fell_back:
        return "rejected"
    if effect.low is None:
        return "inconclusive"
    low, high = math.log(effect.low), math.log(effect.high)
    if low > floor:
        return "faster"
    if high < -floor:
        return "slower"
    return "equivalent" if max(abs(low), abs(high), floor) <= 0.03 else "inconclusive"


def _memory(made: Made, size) -> Memory:
    standing = 90 + 1e-4 * float(size or 0)
    return Memory(
        peak_mib=made.memory * (20 + 1.5e-4 * float(size or 0)),
        after_setup_mib=made.memory * standing,
        method="VmHWM",
    )


def _quality(made: Made, is_baseline: bool) -> CheckResult:
    if is_baseline:
        return CheckResult(state="reference", metric="equal tables")
    return CheckResult(state="failed" if made.broken else "passed", metric="equal tables", note=made.broken)


def _engagement(made: Made) -> ExecutionProof:
    if made.fell_back:
        return ExecutionProof(state="fell back", note=made.fell_back)
    return ExecutionProof(state="verified", facts={"threads": 2, "engine": "in-memory"})


def _scaling(variants: dict[str, Made], points: list[Point]) -> dict[str, Scaling]:
    measured = _timed(variants)
    baseline = measured[0]
    return {name: _over(name, points, name == baseline) for name in measured}


def _over(name: str, points: list[Point], is_baseline: bool) -> Scaling:
    found = [(p.size, next(v for v in p.variants if v.name == name)) for p in points]
    if is_baseline:
        return Scaling(overtakes="baseline")
    gains = [(size, math.log(variant.effect.speedup)) for size, variant in found]
    if all(gain > 0 for _, gain in gains):
        return Scaling(overtakes="always")
    if gains[-1][1] <= 0:
        return Scaling(overtakes="never")
    crossing = _crossing(gains)
    return Scaling(overtakes="between", from_size=crossing, from_low=0.75 * crossing, from_high=1.4 * crossing)


def _crossing(gains: list[tuple[float, float]]) -> float:
    pairs = list(pairwise(gains))
    return next(_zero(*a, *b) for a, b in reversed(pairs) if a[1] <= 0 < b[1])


def _zero(size_a: float, gain_a: float, size_b: float, gain_b: float) -> float:
    return size_a * (size_b / size_a) ** (-gain_a / (gain_b - gain_a))
