"""The layer that breaks under INT8 is found on the calibration alone, and the mixed model leaves just it in float."""

import math

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from kit.errors import UserError
from kit.techniques.quantization.accuracy import agreement
from kit.techniques.quantization.smaller import precisions, sensitivity
from kit.techniques.quantization.smaller.sensitivity import Fidelity, Layer
from kit.techniques.quantization.work import Artefact, Subject

CLASSES, FEATURES, SAMPLES = 10, 32, 128
OUTLIER = 1e4


def subject(folder, outliers=("middle",)):
    """Return three products, in which a channel of the input of those named is so large that the others become 0 in
    INT8. The calibration is all there is: no file with an evaluation lies beside it."""
    folder.mkdir()
    random = np.random.default_rng(0)
    prototypes = random.normal(size=(CLASSES, FEATURES))
    inputs = prototypes[np.arange(SAMPLES) % CLASSES] + 0.1 * random.normal(size=(SAMPLES, FEATURES))
    scales = np.ones(FEATURES)
    scales[0] = OUTLIER
    features, nodes, weights = inputs, [], {"scale": scales, "unscale": 1 / scales}
    value = "x"
    for name in ("first", "middle", "head"):
        last = name == "head"
        weight = random.normal(size=(FEATURES, FEATURES)) / np.sqrt(FEATURES)
        if last:  # fitted, so that the answers have margins as a trained model's have
            weight = np.linalg.lstsq(features, np.eye(CLASSES)[np.arange(SAMPLES) % CLASSES], rcond=None)[0]
        if name in outliers:
            nodes.append(helper.make_node("Mul", [value, "scale"], [f"{name}_scaled"], name=f"{name}_scale"))
            value = f"{name}_scaled"
        weights[name] = weight / scales[:, None] if name in outliers else weight
        nodes.append(helper.make_node("MatMul", [value, name], [f"{name}_out"], name=f"net/{name}"))
        value, features = f"{name}_out", features @ weight
        if not last:
            nodes.append(helper.make_node("Relu", [value], [f"{name}_relu"], name=f"{name}_relu"))
            value, features = f"{name}_relu", np.maximum(features, 0)
    shape = lambda width: ["N", width]  # noqa: E731
    graph = helper.make_graph(
        nodes,
        "outliers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape(FEATURES))],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, shape(CLASSES))],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx"
    )
    np.savez(folder / "calibration.npz", x=inputs.astype(np.float32))
    return Subject("outliers", folder, lambda outputs, targets: 0.0, "accuracy")


@pytest.fixture(scope="module")
def fragile(tmp_path_factory):
    return subject(tmp_path_factory.mktemp("fragile") / "one")


@pytest.fixture(scope="module")
def found(fragile):
    return sensitivity.measure(precisions.fp32(fragile), fragile, threads=1)


def outputs(path, inputs):
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, inputs)[0]


# --- sensitivity ------------------------------------------------------------------------------------------------------


def test_finds_the_sensitive_layer(found):
    """The layer with an outlier channel breaks the answers alone, the others don't, and sparing it mends them."""
    worst, *others = found.effects
    assert worst.layer.name == "middle"
    assert worst.alone.agreement < 0.5 and worst.spared.agreement > 0.98
    assert all(one.alone.agreement > 0.98 and one.spared.agreement < 0.5 for one in others)
    assert worst.alone.sqnr_db < 3 < 20 < min(one.alone.sqnr_db for one in others)


def test_names_and_shares(found):
    """Layers bear the names of the file without the path that all share, and their multiplications add up."""
    layers = {effect.layer.name: effect.layer for effect in found.effects}
    assert layers["middle"].nodes == ("net/middle",)
    assert layers["head"].share == pytest.approx(CLASSES / (2 * FEATURES + CLASSES))
    assert sum(layer.share for layer in layers.values()) == pytest.approx(1)


def test_ranges_are_collected_once(tmp_path, monkeypatch):
    """However many models are tried, and by whom, the calibration's samples are looked at once for their ranges."""
    passes, get_next = [], precisions.Reader.get_next
    monkeypatch.setattr(precisions.Reader, "get_next", lambda self: _counted(get_next(self), passes))
    ours = subject(tmp_path / "counted")
    for _ in range(2):
        sensitivity.measure(precisions.fp32(ours), ours, threads=1)
    assert len(passes) == 1


def _counted(batch, passes):
    if batch is None:
        passes.append(1)
    return batch


def test_other_data_has_other_ranges(tmp_path):
    """Ranges that were kept of another calibration are not taken for this one's."""
    ours = subject(tmp_path / "changed", outliers=())
    before = sensitivity.measure(precisions.fp32(ours), ours, threads=1)
    np.savez(ours.folder / "calibration.npz", x=3 * ours.calibration["x"])
    again = Subject(ours.name, ours.folder, ours.metric, "accuracy")
    after = sensitivity.measure(precisions.fp32(again), again, threads=1)
    assert after.whole.sqnr_db == pytest.approx(before.whole.sqnr_db, abs=1)  # stale ranges would clip two thirds


def test_the_smallest_layers_are_tried_together(fragile):
    """Of more layers than asked for, the smallest are one, and that is said."""
    found = sensitivity.measure(precisions.fp32(fragile), fragile, most=2, threads=1)
    together = next(effect.layer for effect in found.effects if effect.layer.op == "several")
    assert len(found.effects) == 2 and len(together.nodes) == 2
    assert "2 of 3 layers" in found.note and found.note in sensitivity.chart(found).note


def test_fidelity_is_the_textbook_s():
    """Noise of a hundredth of the signal's power is 20 dB; equal outputs are as good as can be told; NaN is nothing."""
    reference = np.array([[3.0, 4.0], [0.0, 5.0]])
    noisy = reference + np.array([[0.5, 0.0], [0.0, 0.5]])
    assert sensitivity.fidelity(noisy, reference).sqnr_db == pytest.approx(20)
    assert sensitivity.fidelity(noisy, reference).noise == pytest.approx(0.01)
    assert sensitivity.fidelity(reference, reference) == Fidelity(1.0, sensitivity.CLEAN_DB)
    assert sensitivity.fidelity(reference * np.nan, reference) == Fidelity(0.0, -math.inf)


# --- the mixed model --------------------------------------------------------------------------------------------------


def test_the_mixed_model_holds_the_bound(fragile, found):
    """It leaves just the sensitive layer in float, and the file itself reaches what is said of it."""
    proposal = sensitivity.propose(precisions.fp32(fragile), fragile, found, threads=1)
    assert [layer.name for layer in proposal.in_float] == ["middle"]
    assert proposal.share == pytest.approx(1 - proposal.in_float[0].share)
    answers, reference = (outputs(path, fragile.calibration) for path in (proposal.artefact.path, fragile.onnx))
    assert agreement(answers, reference) == proposal.reached.agreement >= proposal.bound
    nodes = onnx.load(proposal.artefact.path).graph.node
    made_by = {output: node.op_type for node in nodes for output in node.output}
    fed = {node.name: made_by.get(node.input[0]) for node in nodes}
    assert fed["net/middle"] == "Mul" and fed["net/first"] == fed["net/head"] == "DequantizeLinear"
    assert "1 of 3 layers stay in float (middle)" in proposal.in_words()


def test_no_layer_needs_to_stay(tmp_path):
    """Where all layers in INT8 hold the bound, the plain file is proposed, and that is said."""
    robust = subject(tmp_path / "robust", outliers=())
    source = precisions.fp32(robust)
    proposal = sensitivity.propose(source, robust, sensitivity.measure(source, robust, threads=1), threads=1)
    assert proposal.in_float == () and proposal.share == pytest.approx(1)
    assert proposal.artefact.path == precisions.static_int8(source, robust).path
    assert proposal.in_words().startswith("No layer needs to stay in float")


def test_nothing_holds(tmp_path):
    """Where every layer breaks the answers there is no file, and FP32 stays."""
    broken = subject(tmp_path / "broken", outliers=("first", "middle", "head"))
    source = precisions.fp32(broken)
    proposal = sensitivity.propose(source, broken, sensitivity.measure(source, broken, threads=1), threads=1)
    assert proposal.artefact is None and proposal.reached.agreement < 0.99
    assert proposal.in_words().startswith("No mix") and proposal.in_words().endswith("FP32 stays.")


def test_a_costly_layer_goes_back_to_int8():
    """A layer that was left in float for nothing goes back, the one with the most multiplications first."""
    layers = [Layer(name, "Conv", (name,), share) for name, share in (("a", 0.6), ("b", 0.1), ("c", 0.2), ("d", 0.1))]
    holds = lambda held: {"b", "c"} <= {layer.name for layer in held}  # noqa: E731
    answer = lambda held: Fidelity(1.0 if holds(held) else 0.5, 30.0)  # noqa: E731
    held, reached = sensitivity._choose(layers, Fidelity(0.5, 3.0), 0.99, answer)
    assert [layer.name for layer in held] == ["b", "c"] and reached.agreement == 1.0


# --- which operators --------------------------------------------------------------------------------------------------


def test_operators_that_cost_the_accuracy(tmp_path):
    """Quantizing what rescales a channel costs the answers; quantizing a Relu does not; the last row is everything."""
    ours = subject(tmp_path / "operators", outliers=())
    model = onnx.load(ours.onnx)
    head = next(node for node in model.graph.node if node.name == "net/head")
    for scale, name in (("scale", "up"), ("unscale", "down")):  # ×10⁴ and ÷10⁴: nothing in float, all in INT8
        model.graph.node.append(helper.make_node("Mul", [head.input[0], scale], [f"{name}_out"], name=name))
        head.input[0] = f"{name}_out"
    moved = model.graph.node[:]
    moved.sort(key=lambda node: node.name == "net/head")
    del model.graph.node[:]
    model.graph.node.extend(moved)
    onnx.save(model, ours.onnx)
    rows = {row.name: row for row in sensitivity.operators(precisions.fp32(ours), ours, threads=1)}
    assert [*rows][0 :: len(rows) - 1] == ["nothing else", "every type"]
    assert rows["nothing else"].reached.agreement > 0.98 and rows["Relu"].reached.agreement > 0.98
    assert rows["Mul"].nodes == 2 and rows["Mul"].reached.agreement < 0.5
    assert rows["every type"].reached.agreement < 0.5
    assert len(sensitivity.operators_table(list(rows.values())).rows) == len(rows)


# --- how it is shown, what can be wrong -------------------------------------------------------------------------------


def test_chart_and_table(found):
    """Bars and rows show the most sensitive layer first, and say how all layers together do."""
    chart, table = sensitivity.chart(found), sensitivity.table(found)
    assert [series.x[0] for series in chart.series] == ["middle", "middle"] and "All layers in INT8" in chart.note
    assert [row[0] for row in table.rows] == [effect.layer.name for effect in found.effects]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"most": 1}, "most=1 must be at least 2"),
        ({"samples": 0}, "samples=0 must be at least 1"),
        ({"method": "guess"}, "no calibration by 'guess'; it is one of min-max, entropy, percentile"),
    ],
)
def test_what_is_wrong_is_said(fragile, change, said):
    """What was asked wrongly is said in one sentence, with what is allowed."""
    with pytest.raises(UserError, match=said):
        sensitivity.measure(precisions.fp32(fragile), fragile, **change)


def test_bounds_and_sources(fragile, found):
    """A bound outside of what can be asked, and a model that is not FP32, are refused."""
    with pytest.raises(UserError, match="bound=99 must be above 0 and at most 1"):
        sensitivity.propose(precisions.fp32(fragile), fragile, found, bound=99)
    with pytest.raises(UserError, match="this one is INT8"):
        sensitivity.measure(Artefact(fragile.onnx, "INT8"), fragile)


def test_a_model_without_products(tmp_path):
    """A model with nothing to quantize is said to be one."""
    ours = subject(tmp_path / "none")
    model = onnx.load(ours.onnx)
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("Relu", ["x"], [model.graph.output[0].name], name="relu"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = FEATURES
    onnx.save(model, ours.onnx)
    with pytest.raises(UserError, match="no MatMul, Gemm or Conv"):
        sensitivity.measure(precisions.fp32(ours), ours)
