"""Charts and tables of what is modelled: always drawn and named apart from what was measured."""

from collections.abc import Sequence

from kit.record.document import Chart, Series, Table
from kit.techniques.training.beyond.catalogue import Device, Network
from kit.techniques.training.beyond.counts import Count
from kit.techniques.training.beyond.expect import NAMES, USABLE, Expectation, in_words
from kit.techniques.training.beyond.fit import Check
from kit.techniques.training.beyond.here import Here
from kit.techniques.training.beyond.shape import Shape
from kit.techniques.training.traffic import Traffic


def checks(here: Here, more: Sequence[Check] = ()) -> Table:
    """Return what the model says of points that no fit has seen, beside what was measured there."""
    unseen = [here.device.check, here.network.check, *here.checks, *more]
    rows = [[one.what, 1e3 * one.predicted_s, 1e3 * one.measured_s, f"{one.error:+.0%}"] for one in unseen]
    return Table(
        "Is the model right? Points that no fit has seen",
        ["point", "modelled (ms)", "measured (ms)", "error"],
        rows,
        f"Fitted here, with {here.ranks} ranks at work at once: {here.device.found.in_words()}; "
        f"{here.network.found.in_words()}. Of DDP's communication {here.exposed:.0%} is not hidden, measured at the "
        "smallest batch. What errs by more than a few tens of percent here says as little elsewhere.",
    )


def network(here: Here) -> Chart:
    """Return the time of an all-reduce over its size, measured and modelled."""
    fit = here.network
    sizes = [size / 2**10 for size in fit.x]
    return Chart(
        f"An all-reduce among {here.ranks} ranks (lower is better)",
        "KiB",
        "milliseconds",
        [
            Series("measured, best of 9", sizes, [1e3 * seconds for seconds in fit.measured_s]),
            Series("ring", sizes, [1e3 * s for s in fit.modelled_s], style="modelled"),
        ],
        log_x=True,
        log_y=True,
    )


def counted(found: Sequence[Count]) -> Table:
    """Return what each strategy sends and holds on more ranks than there are, counted by torch, not modelled."""
    rows = [
        [
            NAMES.get(one.strategy, one.strategy),
            one.ranks,
            one.reason or Traffic(one.calls, one.num_bytes).in_words(),
            Traffic(one.calls, one.num_bytes).total_bytes / 2**20 if one.calls else None,
            one.held / one.parameters if one.parameters else None,
        ]
        for one in found
    ]
    return Table(
        "What a rank sends and holds on more ranks: counted, by torch's fake group",
        ["strategy", "ranks", "collectives a step", "handed over (MiB)", "holds"],
        rows,
        "The strategies' own code ran on one process as one rank of so many; nothing was moved, everything is exact. "
        "Handed over: bytes of the tensors given to collectives. "
        "The batch grows with the ranks, and a pipeline's pieces with its stages.",
    )


def throughput(shape: Shape, device: Device, network: Network, rows: Sequence[Expectation]) -> Chart:
    """Return modelled items a second over ranks, of the strategies that fit in memory, with the ideal line."""
    fitting = [row for row in rows if row.fits]
    names = dict.fromkeys(row.strategy for row in fitting)
    series = []
    for name in names:
        own = [row for row in fitting if row.strategy == name]
        x, y = [row.ranks for row in own], [row.per_s for row in own]
        series.append(Series(NAMES.get(name, name), x, y, style="modelled"))
    if fitting:
        one = max(row.per_s / row.ranks / row.efficiency for row in fitting if row.efficiency)
        ends = [min(row.ranks for row in fitting), max(row.ranks for row in fitting)]
        series.append(Series("ideal", ends, [one * ranks for ranks in ends], style="ideal"))
    return Chart(
        f"{shape.name} on more devices: throughput (higher is better)",
        "ranks",
        f"{shape.item} a second, modelled",
        series or [Series("nothing fits in memory", [1], [None], style="modelled")],
        log_x=True,
        log_y=True,
        note=f"Modelled, not measured: {device.in_words()}; {network.in_words()}.",
    )


def expected(shape: Shape, rows: Sequence[Expectation], samples: int) -> Table:
    """Return the modelled step, throughput, efficiency and memory of each strategy at each number of ranks."""
    cells = [
        [
            NAMES.get(row.strategy, row.strategy),
            row.ranks,
            *(
                [None, None, None, None, row.reason]
                if row.reason
                else [row.step_s, row.per_s, row.efficiency, row.memory.gib, "yes" if row.fits else "no"]
            ),
        ]
        for row in rows
    ]
    text = next((row.memory.text for row in rows if row.memory), "")
    return Table(
        f"{shape.name} on more devices, modelled",
        ["strategy", "ranks", "step (s)", f"{shape.item} a second", "weak efficiency", "memory a rank (GiB)", "fits"],
        cells,
        f"Weak scaling, {samples} sample{'s' * (samples > 1)} a rank. {USABLE:.0%} of a device's memory is taken to be "
        f"usable. Memory, for the first row: {text}. Half of the communication that can hide behind computing is "
        f"taken to do so. One rank alone would hold {in_words(shape.parameters * shape.weight_bytes)} of weights.",
    )
