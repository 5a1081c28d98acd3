"""How to choose the ranges of INT8: the methods and granularities tried on one model, and the best of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from kit.record import words
from kit.record.document import Table
from kit.techniques.quantization.accuracy import Gate, Score, agreement
from kit.techniques.quantization.engines.on_cpu import CPU, session_options
from kit.techniques.quantization.smaller import precisions
from kit.techniques.quantization.work import Artefact, Inputs, Subject

BATCH = 32
"""Samples at a time; nothing is timed here."""


@dataclass(frozen=True)
class Calibrated:
    """One way to calibrate. apart: distance of its outputs to FP32's, and agrees: share of the same answers, on
    the calibration data, by which one is chosen; score: on the evaluation."""

    method: str
    per_channel: bool
    artefact: Artefact
    apart: float
    agrees: float
    score: Score


def tried(
    subject: Subject,
    gate: Gate,
    threads: int,
    methods: Sequence[str] = tuple(precisions.METHODS),
    granularities: Sequence[bool] = (True, False),
) -> list[Calibrated]:
    """Return the static INT8 model by each method, with a scale a channel (True) or a tensor (False)."""
    source = precisions.fp32(subject)
    known, best = (answers(source, samples, threads) for samples in (subject.calibration, subject.evaluation))
    found = []
    for method, per_channel in product(methods, granularities):
        made = precisions.static_int8(source, subject, method=method, per_channel=per_channel)
        seen = answers(made, subject.calibration, threads)
        score = gate.score(answers(made, subject.evaluation, threads), best)
        found.append(Calibrated(method, per_channel, made, distance(seen, known), agreement(seen, known), score))
    return found


def best(found: Sequence[Calibrated]) -> Calibrated:
    """Return the way that is nearest to FP32 on the calibration data: the evaluation has no part in the choice."""
    return min(found, key=lambda one: one.apart)


def answers(artefact: Artefact, samples: Inputs, threads: int) -> np.ndarray:
    """Return the first output of an ONNX file for all samples, [N, …], by ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(artefact.path), session_options(threads), providers=CPU)
    return np.concatenate([session.run(None, some)[0] for some in precisions.Reader(samples, BATCH)])


def distance(outputs: np.ndarray, reference: np.ndarray) -> float:
    """Return the root mean square of the difference ÷ that of the reference."""
    return float(np.sqrt(np.mean((outputs - reference) ** 2) / np.mean(reference**2)))


def table(found: Sequence[Calibrated], gate: Gate) -> Table:
    """Return a row a way to calibrate."""
    chosen = best(found)
    rows = [
        [
            one.method,
            "a channel" if one.per_channel else "a tensor",
            words.percent(one.apart),
            words.percent(one.agrees),
            words.percent(one.score.agreement),
            one.score.kept(),
            "chosen" if one == chosen else "yes" if one.score.share >= gate.bound else "NO",
        ]
        for one in found
    ]
    metric = gate.subject.metric_name
    return Table(
        f"Ways to calibrate INT8: {metric} beside FP32's",
        [
            "ranges by",
            "a scale for",
            "outputs apart",
            "same answers",
            "in the evaluation",
            f"{metric}, of FP32's",
            "good",
        ],
        rows,
        "Outputs apart (RMS of the difference ÷ RMS) and same answers: on the calibration data, by which the nearest "
        "is chosen. The evaluation has no part in that; it judges.",
    )
