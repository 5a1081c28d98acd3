"""Tables and the figure of a comparison of variants, and the claim part by part."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from kit.common import claims
from kit.measure.result import Result
from kit.record import formatting
from kit.record.document import Chart, Series, Table, Variant
from kit.techniques.quantization import bf16
from kit.techniques.quantization.catalog import TAKE_FILES
from kit.techniques.quantization.checks import Gate, Score
from kit.techniques.quantization.workload import ModelFile, Served

FAR = 0.03  # below the threshold by more than this a variant is named under the figure, not drawn


@dataclass(frozen=True)
class Findings:
    """A result, its declared variants by name, and the gate that checked them; shown for the largest batch."""

    result: Result
    variants: Mapping[str, Served]
    gate: Gate

    @property
    def measured(self) -> list[Variant]:
        """The variants that were measured, the baseline first."""
        return [one for one in formatting.largest(self.result.record).variants if one.state == "measured"]

    def score(self, variant: Variant) -> Score | None:
        """Return the score of a variant's outputs; None where they could not be scored. FP32's own is 100 %."""
        if variant.verdict == "baseline" and self.gate.notes:
            reference = next(iter(self.gate.notes.values())).reference
            return Score(reference, reference, 1.0, 1.0, 1.0)
        note = variant.check.note if variant.check else ""
        return next((score for known, score in self.gate.notes.items() if note.endswith(known)), None)


def engine_by_precision(found: Findings) -> Table:
    """Return a row per variant: its speed next to FP32 by the same engine, paired by round, accuracy, and file."""
    model = found.gate.model
    fp32 = {one.opener: name for name, one in found.variants.items() if one.file == ModelFile(model.onnx, "FP32")}
    rows = []
    for one in found.measured:
        served, score = found.variants[one.name], found.score(one)
        base = fp32.get(served.opener)
        pair = found.result.paired(one.name, base) if base not in (None, one.name) else None
        within = "its FP32" if base == one.name else pair and f"{formatting.speed(pair.effect)}: {pair.verdict}"
        mib, made_s = served.file.mib if served.opener in TAKE_FILES else None, served.file.made_s or None
        rows.append([one.name, within, score and score.kept(), mib, made_s, one.verdict])
    return Table(
        "Engine by precision: the gain of quantization within an engine, and its costs",
        ["variant", "against FP32 by the same engine", f"of FP32's {model.metric_name} (95 % CI)", "file MiB",
         "made in s", f"against {found.result.record.asked.baseline}"],
        rows,
        f"Threshold {formatting.percent(found.gate.threshold)} "
        f"of {model.metric_name} over {len(model.targets):,} samples: {model.note}. "
        "Made: conversion and calibration.",
    )  # fmt: skip


def frontier(found: Findings) -> Chart:
    """Return accuracy over latency: each variant with its interval, and the threshold."""
    drawn, far = [], []
    for one in found.measured:
        score = found.score(one)
        if score and score.share < found.gate.threshold - FAR:
            far.append(f"{one.name} ({100 * score.share:.1f} %)")
        elif score and one.median_s:
            percents = ([100 * value] for value in (score.share, score.low, score.high))
            drawn.append(Series(one.name, [1e3 * one.median_s], *percents))
    times = [series.x[0] for series in drawn] or [1.0]
    line = Series("threshold", [min(times), max(times)], [100 * found.gate.threshold] * 2, style="ideal")
    return Chart(
        "Accuracy over latency (upper left is better)", "milliseconds per request",
        f"% of FP32's {found.gate.model.metric_name}", [*drawn, line], log_x=True,
        shape="points" if len(times) > 1 else "lines", note=f"Far below: {', '.join(far)}." if far else "",
    )  # fmt: skip


def tables(found: Findings) -> list[Chart | Table]:
    """Return what 04_quantization shows: of an OpenVINO BF16 that fails its check also the layer that costs it."""
    modes = [one for one in found.measured if one.name == "OpenVINO BF16" and one.check]
    why = [bf16.by_layer(found.gate.model) for mode in modes if mode.check.state == "failed"]
    return [frontier(found), engine_by_precision(found), *why]


def pruning_table(found: Findings) -> Table:
    """Return a row per pruned model: zeros, size, work, accuracy, and the speed-up they are worth."""
    rows = []
    for one in found.measured:
        file, score = found.variants[one.name].file, found.score(one)
        made = file.settings
        zipped = len(zlib.compress(file.path.read_bytes())) / 2**20
        left = [formatting.percent(made.get("zeros")), made.get("parameters"), made.get("multiplications", 0) / 1e6]
        speed = "1×" if one.verdict == "baseline" else formatting.ratio_cell(formatting.claimed(one))
        rows.append([one.name, *left, score and score.kept(), file.mib, zipped, speed, one.verdict])
    return Table(
        f"Pruning of {found.gate.model.name}: zeros and removed channels",
        ["variant", "zeros", "parameters", "M multiplications", f"of FP32's {found.gate.model.metric_name} (95 % CI)",
         "file MiB", "zipped MiB", "speed-up (95 % CI)", "verdict"],
        rows,
        "The baseline is fine-tuned for as many epochs as the pruned models. Zeros within dense weights are multiplied "
        "like any number: they save space in a compressed file, and time only on hardware with sparse kernels.",
    )  # fmt: skip


def claim(found: Findings) -> str:
    """Return the parts of 04_quantization's claim that were measured, a line each."""
    measured, parts = {one.name: one for one in found.measured}, {}
    for name, one in measured.items():
        engine = name.removesuffix(" INT8")
        if engine != name and f"{engine} FP32" in measured:
            verdict = getattr(found.result.paired(name, f"{engine} FP32"), "verdict", "rejected")
            parts[f"{engine}: INT8 against FP32: {verdict}"] = claims.holds(verdict, ["faster"])
            parts[f"{engine}: INT8 passes the check"] = one.check.state == "passed"
        if name == "ONNX Runtime INT8":
            fp32, int8 = (found.variants[f"{engine} {precision}"].file for precision in ("FP32", "INT8"))
            parts[f"{engine}: its file is a quarter as large"] = int8.mib < 0.3 * fp32.mib
        if "all operators" in name:
            parts[f"{name}: fails the check"] = one.check.state == "failed"
    return claims.lines(parts)
