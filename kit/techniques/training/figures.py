"""Charts and tables of training: weights and costs per rank, pipeline schedules, scaling efficiency."""

from itertools import zip_longest

from kit.measure.result import Result
from kit.record.document import Chart, Point, Series, Table, Variant


def weights_held(result: Result) -> Chart:
    """Return bars of the model's weights on each rank, stacked: DDP holds a copy per rank, FSDP2 one in all."""
    shown = _proven(result)
    costs = [variant.execution_proof.costs for variant in shown]
    held = [[share for name, share in own.items() if name.startswith("held_share_")] for own in costs]
    ranks = list(zip_longest(*held, fillvalue=0.0))
    return Chart(
        "Who holds which weights",
        "strategy",
        "copies of the model",
        [Series(f"rank {rank}", [v.name for v in shown], list(shares)) for rank, shares in enumerate(ranks)],
        shape="stacked",
        note="Above 1, ranks hold the same weights.",
    )


def costs(result: Result) -> Table:
    """Return by variant communication and memory of the busiest rank."""
    rows = []
    for variant in _proven(result):
        proof, timed = variant.execution_proof, variant.median_s
        own, facts = proof.costs, proof.facts
        exposed = f"{100 * max(0.0, own['exposed_share']):.0f} %" if timed and "exposed_share" in own else None
        row = [variant.name, 1e3 * timed if timed else None, exposed, facts["collectives"]]
        rows.append([*row, own["sent_mib"], facts["holds"], own["state_mib"]])
    return Table(
        "Communication and memory of the busiest rank",
        ["strategy", "step (ms)", "exposed", "collectives/step", "sent (MiB/step)", "weights", "model state (MiB)"],
        rows,
        "Exposed: 1 − step without averaging ÷ step, of DDP. Sent: bytes of the tensors given to collectives, whole "
        "ones. Model state: weights, gradients, momentum.",
    )


def timeline(stages: int = 2, pieces: int = 4, *, early: bool = True) -> Table:
    """Return the passes of a pipeline by slot: F1 is the forward, B1 the backward pass of the first piece.

    early: 1F1B, backward as soon as possible; otherwise GPipe, all forward first. Both passes take one slot here.
    """
    done: dict[tuple[str, int, int], int] = {}  # (pass, stage, piece) → slot
    rows: list[list[str]] = [[] for _ in range(stages)]
    while len(done) < 2 * pieces * stages:
        slot = len(rows[0])
        for stage, row in enumerate(rows):
            key, needed = _next(done, stage, stages, pieces, early)
            ready = key[2] < pieces and all(done.get(one, slot) < slot for one in needed)
            row.append(f"{key[0]}{key[2] + 1}" if ready else "")
            if ready:
                done[key] = slot
    bubble = 1 - 2 * pieces / len(rows[0])
    return Table(
        f"{'1F1B' if early else 'GPipe'}: {stages} stages, {pieces} pieces, bubble {100 * bubble:.0f} %",
        ["rank", *map(str, range(1, len(rows[0]) + 1))],
        [[str(stage), *row] for stage, row in enumerate(rows)],
    )


def _next(done: dict, stage: int, stages: int, pieces: int, early: bool) -> tuple[tuple[str, int, int], list[tuple]]:
    """Return the next pass of a stage, and the passes that must be done before."""
    forward, backward = (sum((way, stage, piece) in done for piece in range(pieces)) for way in "FB")
    if forward < min(pieces, backward + (stages - stage if early else pieces)):
        return ("F", stage, forward), [("F", stage - 1, forward)] if stage else []
    after = [("B", stage + 1, backward)] if stage + 1 < stages else []
    return ("B", stage, backward), [("F", stage, backward), *after]


def efficiency(result: Result, one: str, name: str, ranks: int) -> Table:
    """Return the scaling efficiency of a variant by batch, against one process.

    Strong: t₁(b) ÷ (p · tₚ(b)), paired within rounds. Weak: t₁(b) ÷ tₚ(p · b), of two batches, so without an interval.
    """
    rows, points = [], {point.size: point for point in result.record.points}
    for size, point in points.items():
        pair = result.at(size).paired(name, one)
        base, grown = _median_s(point, one), size * ranks in points and _median_s(points[size * ranks], name)
        if pair is not None:
            effect = pair.effect
            strong = [end and f"{end / ranks:.2f}" for end in (effect.speedup, effect.low, effect.high)]
            rows.append([size, *strong, f"{base / grown:.2f}" if base and grown else None])
    return Table(
        f"Scaling efficiency of {name} on {ranks} ranks (1 is ideal, higher is better)",
        ["samples/step", "strong", "95 % CI from", "to", "weak"],
        rows,
        "Strong: this batch shared by all ranks. Weak: this batch on every rank. Both against the best single process.",
    )


def _proven(result: Result) -> list[Variant]:
    found = [v for v in result.record.points[-1].variants if v.verdict not in ("rejected", "failed", "skipped")]
    return [v for v in found if v.execution_proof is not None and v.execution_proof.costs]


def _median_s(point: Point, name: str) -> float | None:
    return next((v.median_s for v in point.variants if v.name == name and v.verdict != "rejected"), None)
