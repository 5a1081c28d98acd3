"""What training shows beside speed-ups: proofs, costs, where a step's time goes, scaling: charts and tables."""

import math
from collections.abc import Iterable, Sequence

from kit.measure.result import Result
from kit.record.document import Chart, Series, Table, Variant
from kit.techniques.training.parity import Proof, allowed
from kit.techniques.training.ranks.checkpoint import Restart


def parity(proofs: Sequence[Proof]) -> Table:
    """Return a row a strategy: the largest difference of a step's loss to one process at each number of ranks, what is
    allowed, and the held-out accuracy at the end."""
    reference, *others = proofs
    ranks = sorted({proof.ranks for proof in others})
    rows = [[reference.strategy, *("" for _ in ranks), "", reference.accuracy, "reference"]]
    for name in dict.fromkeys(proof.strategy for proof in others):
        at = {proof.ranks: proof for proof in others if proof.strategy == name}
        longest = max(at.values(), key=lambda proof: len(proof.losses))
        differences = [_difference(at.get(number)) for number in ranks]
        rows.append(
            [
                name,
                *differences,
                f"{allowed(longest.precision, len(longest.losses)):g}",
                longest.accuracy,
                _equal(at.values()),
            ]
        )
    steps = sorted({len(proof.losses) for proof in others if proof.losses})
    columns = ["strategy", *(f"{number} rank{'s' * (number > 1)}" for number in ranks)]
    return Table(
        f"Same training? Largest difference of a step's loss over {' to '.join(map(str, steps))} steps",
        [*columns, "allowed", "held-out accuracy", "equal"],
        rows,
        _why_not(others),
    )


def _difference(proof: Proof | None) -> str:
    if proof is None or proof.difference is None:
        return "failed" if proof is not None and proof.failed else "—"
    return f"{proof.difference:.0e}" if proof.difference else "0"


def _equal(proofs: Iterable[Proof]) -> str:
    if any(proof.failed for proof in proofs):
        return "not shown"
    ran = [proof.holds for proof in proofs if proof.holds is not None]
    return "not shown" if not ran else "yes" if all(ran) else "NO"


def _why_not(proofs: Iterable[Proof]) -> str:
    reasons = {proof.reason: f"{proof.strategy} on {proof.ranks}" for proof in proofs if proof.reason}
    return " ".join(f"{who}: {reason}." for reason, who in reasons.items())


def loss_curves(proofs: Sequence[Proof]) -> Chart:
    """Return the losses of all strategies laid over each other, each where it took the most steps."""
    longest = {proof.strategy: proof for proof in sorted(proofs, key=lambda proof: len(proof.losses)) if proof.losses}
    shown = [longest[name] for name in dict.fromkeys(proof.strategy for proof in proofs) if name in longest]
    series = [Series(proof.strategy, list(range(1, len(proof.losses) + 1)), proof.losses) for proof in shown]
    return Chart(
        "Loss by step, all strategies: equal training is one line",
        "step",
        "loss (nats)",
        series,
        note="Where the lines lie on each other, only the last one is seen; the table has their largest distance.",
    )


def time_to_accuracy(proofs: Sequence[Proof], result: Result, target: float | None = None) -> Table:
    """Return the steps that each strategy needs to the target, and with the measured time of a step the seconds.

    target: share of held-out samples right; by default the highest tenth that one process reached.
    """
    best = max((accuracy for _, accuracy in proofs[0].curve), default=0.0)
    target = math.floor(10 * best) / 10 if target is None else target
    rows = []
    for variant in _measured(result):
        own = [proof for proof in proofs if proof.strategy == variant.name]
        proof = max(own or proofs[:1], key=lambda proof: len(proof.losses))
        steps = next((step for step, accuracy in proof.curve if accuracy >= target), None)
        rows.append([variant.name, steps, 1e3 * variant.warm_s, None if steps is None else steps * variant.warm_s])
    return Table(
        f"Time to {target:.0%} of held-out samples right (lower is better)",
        ["strategy", "steps", "step (ms)", "seconds"],
        rows,
        "Steps are counted where the strategy was proven, seconds are steps × the measured step; evaluation is left "
        f"out. Accuracy was looked at every few steps; the best seen in one process was {best:.1%}.",
    )


def restart(found: Restart) -> Chart:
    """Return the losses of a run that lost a rank and went on from a checkpoint, over those of one that did not."""
    steps = range(1, len(found.uninterrupted) + 1)
    return Chart(
        f"A rank killed in step {found.killed_at}: training goes on after step {found.resumed_from}",
        "step",
        "loss (nats)",
        [
            Series("uninterrupted", list(steps), found.uninterrupted),
            Series("after the restart", list(steps)[found.resumed_from :], found.restarted),
        ],
        note=f"All ranks were started again from the last whole checkpoint; the largest difference is "
        f"{found.max_difference:.0e}.",
    )


def costs(result: Result) -> Table:
    """Return a row a variant: what a step needs, sends and holds, and how much of the machine's best it reaches."""
    rows = []
    for variant in _engaged(result):
        own = variant.engagement.costs
        rows.append(
            [
                variant.name,
                1e3 * variant.warm_s if variant.warm_s else None,
                ideal_s / variant.warm_s if (ideal_s := _ideal_s(result, variant)) and variant.warm_s else None,
                own["waiting_share"] if variant.warm_s else None,
                variant.engagement.facts["collectives"],
                own["sent_mib"],
                own["held_share"],
                own["state_mib"],
                own["peak_mib"],
            ]
        )
    return Table(
        "What a step costs, on the busiest rank",
        [
            "strategy",
            "step (ms)",
            "MFU",
            "waiting",
            "collectives",
            "handed over (MiB)",
            "holds",
            "state (MiB)",
            "peak (MiB)",
        ],
        rows,
        "MFU: the model's floating-point operations a second, as a share of this machine's measured float32 matrix "
        "product. Waiting: 1 − step without communication ÷ step, paired; for pipelines with the bubble; below 0 is "
        "noise. Handed over: bytes of the tensors given to collectives, whole ones; what crosses a wire depends on the "
        "algorithm. Holds: share of the parameters. State: weights and momentum. Peak: above what stood before.",
    )


def where_time_goes(result: Result) -> Chart:
    """Return bars of a step's time: matrix products at this machine's best, other work, waiting for other ranks."""
    shown = [variant for variant in _engaged(result) if variant.warm_s]
    names, parts = [variant.name for variant in shown], []
    for variant in shown:
        own, step_s = variant.engagement.costs, variant.warm_s
        alone_s = step_s * min(1.0, own["silent_step_s"] / own["step_s"])
        ideal_s = min(alone_s, _ideal_s(result, variant) or 0.0)
        parts.append((1e3 * ideal_s, 1e3 * (alone_s - ideal_s), 1e3 * (step_s - alone_s)))
    labels = ["matrix products at best", "other work", "waiting for other ranks"]
    return Chart(
        "Where a step's time goes (lower is better)",
        "strategy",
        "milliseconds a step",
        [Series(label, names, list(part)) for label, part in zip(labels, zip(*parts, strict=True), strict=True)],
        shape="stacked",
        note="Matrix products: the time that this machine would need for them at its measured best, where that is "
        "known. Waiting: what a step has beyond the same step over groups that move nothing.",
    )


def memory(result: Result) -> Chart:
    """Return bars of the memory of a rank: what weights and momentum take, and the peak of a step."""
    shown = _engaged(result)
    names = [variant.name for variant in shown]
    return Chart(
        "Memory of the fullest rank (lower is better)",
        "strategy",
        "MiB above what stood before the model",
        [
            Series("weights and momentum", names, [v.engagement.costs["state_mib"] for v in shown]),
            Series("peak of a step", names, [v.engagement.costs["peak_mib"] for v in shown]),
        ],
        shape="bars",
    )


def efficiency(result: Result, one: str, strong: dict[str, int], weak: dict[str, int]) -> Table:
    """Return the scaling efficiency at each batch, with intervals, from readings paired within rounds.

    one: the variant on one rank. strong: variants that share out its batch, by name the ranks. weak: variants whose
    batch grows with the ranks, and whose readings are for as many samples. Either is t₁ ÷ (p · tₚ).
    """
    rows = []
    for point in result.record.points:
        for kind, names in (("strong", strong), ("weak", weak)):
            for name, ranks in names.items():
                found = result.at(point.size).paired(name, one)
                if found is not None:
                    ends = [None if end is None else end / ranks for end in (found.effect.low, found.effect.high)]
                    rows.append([kind, point.size, ranks, found.effect.speedup / ranks, *ends])
    unit = result.record.asked.unit
    return Table(
        "Scaling efficiency (1 is ideal, higher is better)",
        ["scaling", unit, "ranks", "efficiency", "from", "to"],
        rows,
        f"Samples a second, against p times those of {one}. Strong: the same batch shared out. Weak: it on every rank.",
    )


def throughput(result: Result, one: str, strong: dict[str, int], weak: dict[str, int]) -> Chart:
    """Return items a second over ranks at the largest batch: strong and weak, measured, with the ideal line."""
    point = result.record.points[-1]
    found = {variant.name: variant for variant in point.variants if variant.verdict != "invalid"}
    metric = next((name for name in found[one].metrics), "items_per_s")
    base = found[one].metrics.get(metric) or math.nan
    series = []
    for kind, names in (("strong", strong), ("weak", weak)):
        ran = [(ranks, found[name].metrics.get(metric)) for name, ranks in names.items() if name in found]
        ran = [(1, base), *((ranks, rate) for ranks, rate in ran if rate)]
        series.append(Series(f"{kind} scaling", *map(list, zip(*ran, strict=True))))
    most = max([2, *strong.values(), *weak.values()])
    series.append(Series("ideal", [1, most], [base, base * most], style="ideal"))
    item = metric.removesuffix("_per_s")
    return Chart(
        f"Throughput over ranks at {point.size} {result.record.asked.unit} (higher is better)",
        "ranks",
        f"{item} a second",
        series,
        note="Medians over rounds; the table has the paired ratios with their intervals.",
    )


def _ideal_s(result: Result, variant: Variant) -> float | None:
    """Return the seconds that the matrix products of a step would take at this machine's measured best: None on a GPU
    and for several machines, of which that is not known."""
    best = result.record.machine.ceilings.get("matrix_product_fp32_gflop_per_s")
    elsewhere = variant.engagement.facts["device"] != "cpu" or result.record.asked.parameters.get("nnodes", 1) > 1
    return None if elsewhere or not best else variant.engagement.costs["step_gflop"] / best


def _measured(result: Result) -> list[Variant]:
    return [v for v in result.record.points[-1].variants if v.warm_s and v.verdict != "invalid"]


def _engaged(result: Result) -> list[Variant]:
    variants = [v for v in result.record.points[-1].variants if v.verdict != "invalid"]
    return [v for v in variants if v.engagement is not None and v.engagement.costs]
