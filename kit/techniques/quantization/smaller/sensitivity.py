"""Which layers lose accuracy in INT8, and the mixed model that leaves as few as needed of them in float.

Each layer is quantized alone, and all but it: the first says what it costs, the second what leaving it in float mends.
All is judged on the calibration's inputs, by how near the outputs come to FP32's: a model that was chosen on the
evaluation would be flattered by it. The ranges of the activations are collected once for all models that are tried.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np

from kit.errors import UserError
from kit.record import words
from kit.record.document import Chart, Series, Table
from kit.techniques.quantization.accuracy import BOUND, agreement
from kit.techniques.quantization.engines import proof
from kit.techniques.quantization.engines.on_cpu import CPU, first, session_options
from kit.techniques.quantization.smaller import calibration, precisions
from kit.techniques.quantization.smaller.precisions import PRODUCTS
from kit.techniques.quantization.work import Artefact, Inputs, Subject, digest, kept

MOST_LAYERS = 48
"""Layers that are tried one by one; of more, the smallest are tried together."""

SAMPLES = 256
"""Inputs of the calibration that a tried model answers."""

CLEAN_DB = 150.0
"""Signal to noise of outputs that don't differ: beyond it lies the rounding of float32."""

SHOWN = 24
"""Layers that the chart shows, the most sensitive first."""


@dataclass(frozen=True)
class Fidelity:
    """How near outputs come to FP32's.

    agreement: as `accuracy.agreement`, 0 to 1. sqnr_db: signal to quantization noise, 10 log₁₀ Σ y² ÷ Σ (y − ŷ)², in
    decibels; −inf where an output is NaN or infinite.
    """

    agreement: float
    sqnr_db: float

    @property
    def noise(self) -> float:
        """Power of the noise as a share of the signal's."""
        return 10 ** (-self.sqnr_db / 10)


@dataclass(frozen=True)
class Layer:
    """A product or convolution, or several small ones tried together. nodes: their names in the graph that is
    quantized; share: of the model's multiplications, 0 to 1."""

    name: str
    op: str
    nodes: tuple[str, ...]
    share: float


@dataclass(frozen=True)
class Effect:
    """What a layer does. alone: only it is INT8; spared: all others are."""

    layer: Layer
    alone: Fidelity
    spared: Fidelity


@dataclass(frozen=True)
class Sensitivity:
    """What was found of a model, its most sensitive layer first.

    whole: all layers are INT8. samples: inputs of the calibration that were answered. method, per_channel: as
    `static_int8`. note: which layers were not tried one by one.
    """

    effects: tuple[Effect, ...]
    whole: Fidelity
    samples: int
    method: str
    per_channel: bool
    note: str = ""


@dataclass(frozen=True)
class Proposal:
    """The mixed model. artefact: None where no mix holds the bound. in_float: layers that stay so. share: of the
    multiplications that are INT8. reached: what it reaches; whole: what the model with all layers in INT8 does."""

    artefact: Artefact | None
    in_float: tuple[Layer, ...]
    layers: int
    share: float
    reached: Fidelity
    whole: Fidelity
    bound: float
    samples: int

    def in_words(self) -> str:
        """Say it in a sentence or two."""
        reached, whole, asked = map(words.percent, (self.reached.agreement, self.whole.agreement, self.bound))
        judged = f"of {self.samples} calibration samples, where {asked} is asked"
        if self.artefact is None:
            return (
                f"No mix of INT8 and float holds the bound: with only the least sensitive layer in INT8, the answers "
                f"agree with FP32's on {reached} {judged}. FP32 stays."
            )
        if not self.in_float:
            return f"No layer needs to stay in float: all in INT8, the answers agree with FP32's on {reached} {judged}."
        named = ", ".join(words.shown(layer.name, 40) for layer in self.in_float[:4])
        more = f" and {len(self.in_float) - 4} more" if len(self.in_float) > 4 else ""
        return (
            f"{len(self.in_float)} of {self.layers} layers stay in float ({named}{more}), {words.percent(self.share)} "
            f"of the multiplications are INT8: the answers agree with FP32's on {reached} {judged}; with all layers in "
            f"INT8 it is {whole}."
        )


@dataclass(frozen=True)
class Operator:
    """What quantizing one more type of operator does. nodes: how many there are; reached: None where ONNX Runtime
    can't, with the reason."""

    name: str
    nodes: int
    reached: Fidelity | None
    reason: str = ""


# ------------------------------------------------------------------------------------------------ what is asked


def measure(
    source: Artefact,
    subject: Subject,
    *,
    method: str = "min-max",
    per_channel: bool = True,
    most: int = MOST_LAYERS,
    samples: int = SAMPLES,
    threads: int = 0,
) -> Sensitivity:
    """Quantize each layer of `source` (FP32) alone, and all but it, and return how far the outputs move.

    most: layers tried one by one, the largest; the rest is tried together. samples: inputs of the calibration that
    every tried model answers. threads: 0 for ONNX Runtime's own choice. Raise UserError where there is no layer to
    quantize.
    """
    with _trials(source, subject, method, per_channel, PRODUCTS, samples, threads) as trials:
        layers, note = trials.layers(most)
        whole = trials.answer()
        effects = [
            Effect(layer, trials.answer(only=layer.nodes), trials.answer(exclude=layer.nodes)) for layer in layers
        ]
    effects.sort(key=lambda effect: (effect.alone.sqnr_db, effect.layer.name))
    return Sensitivity(tuple(effects), whole, trials.samples, method, per_channel, note)


def propose(
    source: Artefact, subject: Subject, found: Sensitivity, *, bound: float = BOUND, threads: int = 0
) -> Proposal:
    """Return the mixed model: as few layers in float, and as small ones, as the agreement on the calibration asks for.

    Layers are left in float from the most sensitive on until the bound holds; then each, from the one with the most
    multiplications on, goes back to INT8 if the bound holds without it. bound: least agreement with FP32, above 0, at
    most 1; UserError else.
    """
    if not 0 < bound <= 1:
        raise UserError(f"bound={bound} must be above 0 and at most 1, as 0.99 for the same answer in 99 % of samples")
    layers, chosen, reached = [effect.layer for effect in found.effects], (), found.whole
    if reached.agreement < bound:
        with _trials(source, subject, found.method, found.per_channel, PRODUCTS, found.samples, threads) as trials:
            chosen, reached = _choose(layers, found.whole, bound, lambda held: trials.answer(exclude=_nodes(held)))
    artefact = None
    if reached.agreement >= bound:
        exclude = sorted(_nodes(chosen))
        artefact = precisions.static_int8(
            source, subject, method=found.method, per_channel=found.per_channel, exclude=exclude
        )
    share = sum(layer.share for layer in layers if layer not in chosen)
    return Proposal(artefact, chosen, len(layers), share, reached, found.whole, bound, found.samples)


def operators(
    source: Artefact, subject: Subject, *, per_channel: bool = True, samples: int = SAMPLES, threads: int = 0
) -> list[Operator]:
    """Quantize products and convolutions, then with them one more type of operator at a time, then every type that ONNX
    Runtime can: which of them cost the accuracy? The first row is products alone, the last every one."""
    with _trials(source, subject, "min-max", per_channel, (), samples, threads) as trials:
        present = trials.operators()
        others = sorted(set(present) - set(PRODUCTS))
        products = sum(present[op] for op in PRODUCTS)
        return [
            trials.operator("nothing else", products, PRODUCTS),
            *(trials.operator(op, present[op], (*PRODUCTS, op)) for op in others),
            trials.operator("every type", present.total(), ()),
        ]


def _choose(
    layers: Sequence[Layer], whole: Fidelity, bound: float, answer: Callable[[Sequence[Layer]], Fidelity]
) -> tuple[tuple[Layer, ...], Fidelity]:
    """Return the layers to leave in float and what that reaches. layers: the most sensitive first; answer: of a model
    with these layers in float. Where nothing holds the bound, all but the last layer are returned."""
    held, reached = [], whole
    for layer in layers[:-1]:
        if reached.agreement >= bound:
            break
        held.append(layer)
        reached = answer(held)
    if reached.agreement < bound:
        return tuple(held), reached
    for layer in sorted(held[:-1], key=lambda one: -one.share):  # the last one was needed: without it, it did not hold
        others = [one for one in held if one is not layer]
        if (found := answer(others)).agreement >= bound:
            held, reached = others, found
    return tuple(held), reached


def _nodes(layers: Iterable[Layer]) -> tuple[str, ...]:
    return tuple(node for layer in layers for node in layer.nodes)


# ------------------------------------------------------------------------------------------------ how it is tried


@contextlib.contextmanager
def _trials(
    source: Artefact, subject: Subject, method: str, per_channel: bool, ops: Collection[str], samples: int, threads: int
) -> Iterator["_Trials"]:
    """Yield what quantizes parts of the model and answers. ops: types of operators whose ranges are collected; empty:
    every one."""
    if source.precision != "FP32":
        raise UserError(f"its layers are quantized from the FP32 model, and this one is {source.precision}")
    if samples < 1 or threads < 0:
        raise UserError(f"samples={samples} must be at least 1, and threads={threads} at least 0")
    if method not in precisions.METHODS:
        raise UserError(f"there is no calibration by {method!r}; it is one of {', '.join(precisions.METHODS)}")
    ranges = _ranges(source, subject, method, ops)
    with precisions.simplified(source.path) as model:
        recipe = {"method": method, "per_channel": per_channel, "ranges": ranges, "samples": subject.calibration}
        yield _Trials(model, recipe, _spread(subject.calibration, samples), threads)


class _Trials:
    """One model, parts of it quantized, its answers compared to its own in FP32."""

    def __init__(self, model: Path, recipe: dict, inputs: Inputs, threads: int):
        self.model, self.recipe, self.inputs, self.threads = model, recipe, inputs, threads
        self.reference = self._outputs(model)

    @property
    def samples(self) -> int:
        """Number of inputs that each tried model answers."""
        return len(self.reference)

    def answer(
        self, *, only: Sequence[str] = (), exclude: Sequence[str] = (), ops: Collection[str] = PRODUCTS
    ) -> Fidelity:
        """Quantize these nodes only, or all but those, and return how near the answers come to FP32's."""
        tried = self.model.with_name("tried.onnx")
        with precisions.quiet():
            precisions.quantize(self.model, tried, only=only, exclude=exclude, ops=ops, **self.recipe)
        return fidelity(self._outputs(tried), self.reference)

    def operator(self, name: str, nodes: int, ops: Collection[str]) -> Operator:
        """Quantize all operators of these types."""
        try:
            return Operator(name, nodes, self.answer(ops=ops))
        except Exception as error:  # whatever ONNX Runtime raises: it is what the row has to say
            return Operator(name, nodes, None, words.shown(error, 160))

    def _outputs(self, path: Path) -> np.ndarray:
        return calibration.answers(Artefact(path, "INT8"), self.inputs, self.threads)

    def layers(self, most: int) -> tuple[list[Layer], str]:
        """Return the layers, those with the most multiplications first, and a note on those not tried one by one."""
        products = self._products()
        names = {node.name for node in self._nodes() if node.op_type in PRODUCTS and node.name}
        named = sorted((one for one in products if one.name in names), key=lambda one: -one.multiplications)
        if not named:
            raise UserError(
                f"the model has no {', '.join(PRODUCTS[:-1])} or {PRODUCTS[-1]} with a name to quantize it by"
            )
        total = max(1, sum(one.multiplications for one in products))
        layers = [
            Layer(name, one.op, (one.name,), one.multiplications / total)
            for name, one in zip(_short([one.name for one in named]), named, strict=True)
        ]
        other = len(products) - len(named)
        note = (
            f"{other} more products can't be told apart by name, or not be quantized, and were left out."
            if other
            else ""
        )
        return _grouped(layers, most, note)

    def _products(self) -> tuple[proof.Product, ...]:
        """Return what the model multiplies for one sample, by the names of its own nodes."""
        import onnxruntime

        options = session_options(1)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return proof.profiled(self.model, first(self.inputs, 1), options, CPU).products

    def operators(self) -> Counter:
        """Return how many nodes there are of each type that ONNX Runtime can quantize."""
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

        known = {*QDQRegistry, *QLinearOpsRegistry}
        return Counter(node.op_type for node in self._nodes() if node.op_type in known)

    def _nodes(self):
        import onnx

        return onnx.load(self.model, load_external_data=False).graph.node


def _ranges(source: Artefact, subject: Subject, method: str, ops: Collection[str]) -> Path:
    """Return the file with the ranges that the activations have over the calibration, collected once."""

    def make(path: Path) -> dict:
        with precisions.simplified(source.path) as model:
            try:
                tried, samples = model.with_name("tried.onnx"), subject.calibration
                with precisions.quiet():
                    precisions.quantize(model, tried, samples, method=method, ops=ops, ranges=path)
            except Exception:  # it failed to quantize, after the ranges were written
                if not path.exists():
                    raise
        return {}

    sums = {"source": source.sha256, "calibration": digest(subject.calibration)}
    name = f"{source.path.stem}.ranges-{method}-{'products' if ops else 'everything'}"
    return kept(subject.folder / "made", name, ".ranges", make, "", method=method, ops=sorted(ops), **sums).path


def fidelity(outputs: np.ndarray, reference: np.ndarray) -> Fidelity:
    """Return how near outputs [N, …] come to FP32's."""
    if not np.isfinite(outputs).all():
        return Fidelity(0.0, -math.inf)
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(outputs.astype(np.float64) - reference).sum())
    sqnr = CLEAN_DB if noise <= signal * 10 ** (-CLEAN_DB / 10) else 10 * math.log10(max(signal, 1e-300) / noise)
    return Fidelity(agreement(outputs, reference), sqnr)


def _spread(samples: Inputs, most: int) -> Inputs:
    """Return at most so many samples, evenly spread over all."""
    number = len(next(iter(samples.values())))
    rows = np.linspace(0, number - 1, min(number, most)).round().astype(int)
    return {name: values[rows] for name, values in samples.items()}


def _grouped(layers: list[Layer], most: int, note: str) -> tuple[list[Layer], str]:
    """Return the layers with the smallest of them as one, and the note with a word on it, where there are too many."""
    if most < 2:
        raise UserError(f"most={most} must be at least 2: some layers one by one, the rest together")
    if len(layers) <= most:
        return layers, note
    alone, rest = layers[: most - 1], layers[most - 1 :]
    together = Layer(f"the {len(rest)} smallest", "several", _nodes(rest), sum(layer.share for layer in rest))
    share = words.percent(together.share)
    grouped = f"{len(rest)} of {len(layers)} layers, with {share} of the multiplications, were tried together."
    return [*alone, together], f"{grouped} {note}".strip()


def _short(names: Sequence[str]) -> list[str]:
    """Return the names without the path that all share."""
    steps = zip(*(name.split("/")[:-1] for name in names), strict=False)
    shared = len(list(takewhile(lambda step: len(set(step)) == 1, steps)))
    return ["/".join(name.split("/")[shared:]) for name in names]


# ------------------------------------------------------------------------------------------------ how it is shown


def chart(found: Sensitivity) -> Chart:
    """Return the noise of each layer as bars, the most sensitive first."""
    shown = found.effects[:SHOWN]
    names = [effect.layer.name for effect in shown]
    more = f"The {len(shown)} most sensitive of {len(found.effects)} layers. " if len(found.effects) > SHOWN else ""
    return Chart(
        "Sensitivity to INT8 by layer: signal to noise of the outputs (higher is better)",
        "layer",
        "dB",
        [
            Series("only this layer in INT8", names, [effect.alone.sqnr_db for effect in shown]),
            Series("all but this layer", names, [effect.spared.sqnr_db for effect in shown]),
        ],
        shape="bars",
        note=f"{more}{_judged(found)}".strip(),
    )


def table(found: Sensitivity) -> Table:
    """Return a row a layer: its share of the multiplications, and what quantizing it alone and sparing it do."""
    columns = ["layer", "operator", "multiplications", "alone", "alone, dB", "all others", "all others, dB"]
    rows = [
        [one.layer.name, one.layer.op, words.percent(one.layer.share), *_cells(one.alone), *_cells(one.spared)]
        for one in found.effects
    ]
    return Table("Sensitivity to INT8 by layer: agreement with FP32, signal to noise", columns, rows)


def operators_table(found: Sequence[Operator]) -> Table:
    """Return a row a type of operator that was quantized with the products."""
    columns = ["quantized with the products", "nodes", "agreement", "signal to noise, dB", "not possible"]
    rows = [[one.name, one.nodes, *(_cells(one.reached) if one.reached else ("—", None)), one.reason] for one in found]
    return Table(
        "Which operators cost the accuracy?",
        columns,
        rows,
        "Judged on the calibration's inputs by agreement with FP32's answers.",
    )


def _cells(one: Fidelity) -> tuple[str, float | None]:
    return words.percent(one.agreement), round(one.sqnr_db, 1) if math.isfinite(one.sqnr_db) else None


def _judged(found: Sensitivity) -> str:
    whole = f"{words.percent(found.whole.agreement)} agreement, {words.number(found.whole.sqnr_db)} dB"
    judged = (
        f"All layers in INT8: {whole}. Judged on {found.samples} samples of the calibration, by agreement with FP32."
    )
    return f"{judged} {found.note}".strip()
