"""Charts and tables of training: weights and costs per rank, pipeline schedules, scaling efficiency."""

from itertools import zip_longest

from kit.measure.result import Result
from kit.record.document import Chart, Point, Series, Table, Variant


def weights_held(result: Result) -> Chart:
    """Return bars of the model's weights on each rank, stacked: DDP holds a copy per rank, FSDP2 one in all."""
    shown = _proven(result)
    costs = [variant.execution_proof.costs.items() for variant in shown]
    held = [[share for name, share in own if name.startswith("held_share_")] for own in costs]
    ranks = list(zip_longest(*held, fillvalue=0.0))
    series = [Series(f"rank {rank}", [v.name for v in shown], list(shares)) for rank, shares in enumerate(ranks)]
    note = "Above 1, ranks hold the same weights."
    return Chart("Who holds which weights", "strategy", "copies of the model", series, shape="stacked", note=note)


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


def timeline(stages: int = 4, pieces: int = 8) -> Chart:
    """Return the passes of a pipeline by slot, in GPipe's order (all forward first) and in 1F1B's (backward as soon as
    possible); a forward and a backward pass take one slot each here."""
    orders = {"GPipe": _schedule(stages, pieces, early=False), "1F1B": _schedule(stages, pieces, early=True)}
    passes = [(f"{name}, rank {rank}", way, slot) for name, done in orders.items()
              for (way, rank, _), slot in sorted(done.items(), key=lambda one: (one[0][1], one[1]))]  # fmt: skip
    blocks = {name: [(row, slot) for row, way, slot in passes if way == name[0]] for name in ("Forward", "Backward")}
    series = [Series(name.lower(), *map(list, zip(*found, strict=True))) for name, found in blocks.items()]
    bubble = f"({stages} − 1) ÷ ({pieces} + {stages} − 1) = {100 * (stages - 1) / (pieces + stages - 1):.0f} %"
    return Chart(
        f"Pipeline schedules: {stages} stages, {pieces} micro-batches", "rank", "time slot (empty: idle)", series,
        shape="timeline", note=f"The bubble, idle slots, is equal: {bubble}. Rank 0 keeps the activations of up to "
        f"{pieces} micro-batches in GPipe, of {min(stages, pieces)} in 1F1B.",
    )  # fmt: skip


def _schedule(stages: int, pieces: int, early: bool) -> dict[tuple[str, int, int], int]:
    """Return the slot of each (pass, stage, piece)."""
    done: dict[tuple[str, int, int], int] = {}
    for slot in range(2 * (pieces + stages - 1)):
        for stage in range(stages):
            key, needed = _next(done, stage, stages, pieces, early)
            if key[2] < pieces and all(done.get(one, slot) < slot for one in needed):
                done[key] = slot
    return done


def _next(done: dict, stage: int, stages: int, pieces: int, early: bool) -> tuple[tuple[str, int, int], list[tuple]]:
    """Return the next pass of a stage, and the passes that must be done before."""
    forward, backward = (sum((way, stage, piece) in done for piece in range(pieces)) for way in "FB")
    if forward < min(pieces, backward + (stages - stage if early else pieces)):
        return ("F", stage, forward), [("F", stage - 1, forward)] if stage else []
    after = [("B", stage + 1, backward)] if stage + 1 < stages else []
    return ("B", stage, backward), [("F", stage, backward), *after]


def efficiency(result: Result, one: str, name: str, ranks: int) -> Chart:
    """Return the scaling efficiency of a variant by batch, against one process.

    Strong: t₁(b) ÷ (p · tₚ(b)), paired within rounds. Weak: t₁(b) ÷ tₚ(p · b), of two batches, so without an interval.
    """
    found, points = [], {point.size: point for point in result.record.points}
    for size, point in points.items():
        pair = result.at(size).paired(name, one)
        base, grown = _median_s(point, one), size * ranks in points and _median_s(points[size * ranks], name)
        if pair is not None:
            strong = [end and end / ranks for end in (pair.effect.speedup, pair.effect.low, pair.effect.high)]
            found.append([size, *strong, base / grown if base and grown else None])
    sizes, strong, low, high, weak = map(list, zip(*found, strict=True)) if found else ([], [], [], [], [])
    ideal = Series("ideal", sizes, [1.0] * len(sizes), style="ideal")
    return Chart(
        f"Scaling efficiency of {name} on {ranks} ranks, higher is better", "samples/step", "speed-up ÷ ranks",
        [Series("strong", sizes, strong, low, high), Series("weak", sizes, weak), ideal], log_x=True,
        note="Strong: this batch shared by all ranks. Weak: this batch on every rank. Both against one process.",
    )  # fmt: skip


def _proven(result: Result) -> list[Variant]:
    found = [v for v in result.record.points[-1].variants if v.verdict not in ("rejected", "failed", "skipped")]
    return [v for v in found if v.execution_proof is not None and v.execution_proof.costs]


def _median_s(point: Point, name: str) -> float | None:
    return next((v.median_s for v in point.variants if v.name == name and v.verdict != "rejected"), None)
