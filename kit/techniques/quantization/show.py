"""What quantization shows beside speed-ups: what each variant keeps, costs and answers, and where the frontier lies."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kit.measure.result import Result
from kit.record import words
from kit.record.document import Chart, Series, Table, Variant
from kit.techniques.quantization.accuracy import Gate, Score
from kit.techniques.quantization.engines.on_cpu import onnx_runtime, openvino
from kit.techniques.quantization.engines.on_gpu import onnx_runtime_cuda
from kit.techniques.quantization.engines.on_tensorrt import tensorrt_
from kit.techniques.quantization.requests import Served, latencies
from kit.techniques.quantization.smaller.pruning import Pruning
from kit.techniques.quantization.work import Artefact

QUANTILES = {"median": 0.5, "95 %": 0.95, "99 %": 0.99}
BEYOND = 5
"""Requests that must lie beyond a percentile for it to be told."""


TAKE_THE_FILE = (onnx_runtime, openvino, onnx_runtime_cuda, tensorrt_)
"""Openers that run the artefact's own file; the others convert the module, and only these can be deployed as a file."""


@dataclass(frozen=True)
class Findings:
    """What was found out about a subject's variants, as the tables and charts below read it.

    variants: by name; scratch: the folder of their answers and latencies.
    """

    result: Result
    variants: Mapping[str, Served]
    scratch: Path
    gate: Gate

    @property
    def unit(self) -> str:
        """What a size counts."""
        return self.result.record.asked.unit

    @property
    def smallest(self) -> Result:
        """The result at the smallest batch, of which latency is told."""
        return self.result.at(self.result.record.points[0].size)

    def measured(self, result: Result) -> list[Variant]:
        """Return the variants that answered, at the result's largest batch."""
        return [v for v in result.record.points[-1].variants if v.state == "measured" and v.name in self.variants]

    def score(self, name: str) -> Score | None:
        """Return the score of a variant at the smallest batch, or None where it gave no answer that can be scored."""
        reference = self.result.record.asked.baseline
        batch = self.result.record.points[0].size
        paths = [self.scratch / self.variants[one].name / f"outputs-{batch}.npy" for one in (name, reference)]
        if not all(path.exists() for path in paths):
            return None
        outputs, best = map(np.load, paths)
        if outputs.shape != best.shape or not np.isfinite(outputs).all():
            return None
        return self.gate.score(outputs, best)


def quality(found: Findings) -> Table:
    """Return a row a variant: its metric, the share of FP32's with the interval, the agreement, what part of its
    multiplications ran in its precision, and whether the gate holds."""
    rows = []
    for variant in found.measured(found.smallest):
        score = found.score(variant.name)
        if score is None:
            rows.append([variant.name, None, None, None, None, _low(variant), "no"])
            continue
        kept = "100 %" if variant.verdict == "baseline" else score.kept()
        row = [score.value, kept, words.percent(score.agreement), score.samples, _low(variant), _good(variant)]
        rows.append([variant.name, *row])
    subject = found.gate.subject
    return Table(
        f"What each keeps: at least {words.percent(found.gate.bound)} of FP32's {subject.metric_name} is asked",
        ["variant", subject.metric_name, "of FP32's", "same answers", subject.item, "in low precision", "good enough"],
        rows,
        "In brackets the 95 % interval of the share, the evaluation's samples drawn anew (paired bootstrap). In low "
        "precision: share of the multiplications of all products and convolutions, by the engine's own account.",
    )


def _low(variant: Variant) -> str:
    if variant.engagement is None:
        return "—"
    if variant.engagement.state == "fell back":
        return "0: fell back"
    precision = next((name for name in variant.engagement.facts if name.startswith("in_")), "")
    return f"{variant.engagement.facts[precision]} {precision[3:].upper()}" if precision else "FP32"


def _good(variant: Variant) -> str:
    held = variant.quality is not None and variant.quality.state in ("held", "reference")
    return "yes" if held else "NO"


def latency(found: Findings) -> Table:
    """Return a row a variant: percentiles of the latency at the smallest batch, and the share of the machine's best."""
    rows, batch = [], found.result.record.points[0].size
    for variant in found.measured(found.smallest):
        seconds = latencies(found.scratch / found.variants[variant.name].name, batch)
        told = [1e3 * np.quantile(seconds, q) if len(seconds) * (1 - q) >= BEYOND else None for q in QUANTILES.values()]
        rows.append([variant.name, *told, len(seconds), words.reach(variant.reach)])
    samples = "1 sample" if batch == 1 else f"{batch} samples"
    return Table(
        f"Latency of a request of {samples}, in milliseconds (lower is better)",
        ["variant", *QUANTILES, "requests", "of this machine's best"],
        rows,
        f"Percentiles with fewer than {BEYOND} requests beyond them are left out. Requests come one after another, "
        "each of other samples, in the rounds and, for what these left wanting, after them. This machine's best: a "
        "matrix product in the precision that was proven, measured in the same session.",
    )


def same_engine(found: Findings) -> Table:
    """Return how each low precision compares with FP32 by the same engine, at each batch, from rounds they shared."""
    rows = []
    pairs = [(name, base) for name, base in _bases(found).items() if name != base]
    for point in found.result.record.points:
        for name, base in pairs:
            pair = found.result.at(point.size).paired(name, base)
            if pair is not None:
                rows.append([name, base, point.size, words.speed(pair.effect), pair.verdict])
    return Table(
        "Against FP32 by the same engine",
        ["variant", "against", found.unit, "speed-up", "verdict"],
        rows,
        "An invalid variant is not compared.",
    )


def _bases(found: Findings) -> dict[str, str]:
    """Return for each variant the one that runs the unchanged model in FP32 by the same engine, where there is one."""
    model = found.gate.subject.onnx
    plain = {one.opener: n for n, one in found.variants.items() if one.artefact == Artefact(model, "FP32")}
    return {name: plain[one.opener] for name, one in found.variants.items() if one.opener in plain}


def costs(found: Findings) -> Table:
    """Return a row a variant: sizes, memory, what is spent once, and after how many requests that is saved again."""
    point = found.smallest.record.points[0]
    base = next(v for v in point.variants if v.name == found.result.record.asked.baseline)
    rows = []
    for variant in found.measured(found.smallest):
        artefact = found.variants[variant.name].artefact
        memory = variant.memory and variant.memory.peak_mib + variant.memory.standing_mib
        once = [artefact.made_s or None, variant.prepare_s]
        mib = artefact.mib if found.variants[variant.name].opener in TAKE_THE_FILE else None
        rows.append([variant.name, mib, memory, *once, _pays(variant, base, artefact.made_s)])
    return Table(
        "What each costs, and when it has paid for itself",
        ["variant", "file MiB", "process MiB", "made in s", "opened in s", "pays after"],
        rows,
        f"Made: conversion and calibration, when the file was made. Opened: loading, compiling, first requests. Pays: "
        f"requests after which both have been saved, against {base.name} at {words.count(point.size, found.unit)}.",
    )


def _pays(variant: Variant, base: Variant, made_s: float) -> str:
    if variant is base:
        return "—"
    if variant.verdict != "faster":
        return "not shown to" if variant.verdict == "unresolved" else "never"
    extra, saving = made_s + (variant.prepare_s or 0.0) - (base.prepare_s or 0.0), base.warm_s - variant.warm_s
    return words.count(max(1, round(extra / saving)), "requests") if saving > 0 else "not shown to"


def pruning(found: Findings, made: Mapping[str, Pruning]) -> Table:
    """Return a row a pruned model: its zeros, what is left of it, what it keeps, and what that is worth in speed.

    made: numbers of the prunings by the names of their variants.
    """
    rows = []
    for variant in found.measured(found.result):
        score, own = found.score(variant.name), made.get(variant.name)
        kept = None if score is None else words.percent(score.share)
        left = [words.percent(own.zeros), own.parameters, own.multiplications / 1e6] if own else [None, None, None]
        speed = words.speed(variant.effect) if variant.effect else "1×"
        packed = len(zlib.compress(found.variants[variant.name].artefact.path.read_bytes())) / 2**20
        rows.append(
            [variant.name, *left, kept, found.variants[variant.name].artefact.mib, packed, speed, _worth(variant, own)]
        )
    metric = found.gate.subject.metric_name
    return Table(
        f"Pruning of {found.gate.subject.name}: what only makes zeros, and what makes it faster",
        [
            "variant",
            "zeros",
            "parameters",
            "M multiplications",
            f"of FP32's {metric}",
            "file MiB",
            "zipped MiB",
            "speed-up",
            "so",
        ],
        rows,
        "Pruned models were trained on for some epochs, which the model as trained was not: half a percent between "
        "rows is noise or training, no merit of pruning. Zeros within dense weights are multiplied like any number.",
    )


def _worth(variant: Variant, own: Pruning | None) -> str:
    if variant.verdict in ("baseline", "invalid", "unresolved"):
        return variant.verdict
    if own and own.multiplications == own.multiplications_before and variant.verdict != "faster":
        return "zeros, no speed"
    return variant.verdict


def frontier(found: Findings) -> Chart:
    """Return the picture to choose from: quality kept over latency, with the bound and the frontier of those within."""
    spots, far = [], []
    for variant in found.measured(found.smallest):
        score = found.score(variant.name)
        if score is None or not variant.warm_s or (variant.verdict == "invalid" and _low(variant).startswith("0")):
            continue
        place = far if score.share < found.gate.bound - 0.03 else spots
        place.append((variant.name, 1e3 * variant.warm_s, 100 * score.share, 100 * score.low, 100 * score.high))
    within = sorted((ms, share) for _, ms, share, *_ in spots if share >= 100 * found.gate.bound)
    series = [Series(name, [ms], [share], [low], [high]) for name, ms, share, low, high in spots]
    times = [ms for _, ms, *_ in spots] or [1.0]
    bound = 100 * found.gate.bound
    series.append(Series("the bound", [min(times), max(times)], [bound, bound], style="ideal"))
    if best := _steps(within):
        series.append(Series("frontier", *map(list, zip(*best, strict=True)), style="ideal"))
    batch = words.count(found.smallest.record.points[0].size, "samples")
    return Chart(
        "Quality kept over latency (upper left is better)",
        f"milliseconds a request, of {batch}",
        f"% of FP32's {found.gate.subject.metric_name}",
        series,
        log_x=True,
        note=f"Far below the picture: {_listed(far)}." if far else "",
    )


def _steps(within: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the corners of the frontier: from the fastest on, each that keeps more than all faster ones."""
    corners: list[tuple[float, float]] = []
    for ms, share in within:
        if not corners or share > corners[-1][1]:
            corners += [(ms, level) for _, level in corners[-1:]] + [(ms, share)]
    return corners


def _listed(far: Sequence[tuple]) -> str:
    return ", ".join(f"{name} at {words.number(share)} %" for name, _, share, *_ in far)


def throughput(found: Findings) -> Chart | None:
    """Return samples a second over the batch, or None with one batch only."""
    points = found.result.record.points
    if len(points) < 2:
        return None
    series = []
    for name in found.variants:
        own = [(p.size, v) for p in points for v in p.variants if v.name == name and v.state == "measured" and v.warm_s]
        rates = [(size, size / v.warm_s) for size, v in own if v.verdict != "invalid"]
        if rates:
            series.append(Series(name, *map(list, zip(*rates, strict=True))))
    return Chart(
        "Throughput over batch size (higher is better)",
        found.unit,
        f"{found.gate.subject.item} a second",
        series,
        log_x=True,
        note="Medians over rounds; the table above has the paired ratios with their intervals.",
    )
