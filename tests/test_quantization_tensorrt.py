"""TensorRT takes the files made for it and refuses others, by its own parser and builder, on every machine. What
runs on a GPU alone is tested against its documented interface here, and run where there is one."""

import contextlib
import io
from functools import partial

import numpy as np
import pytest
import small_net
from small_net import refusal

from kit.machine import capabilities
from kit.techniques.quantization import models, precisions, tensorrt_engine
from kit.techniques.quantization.checks import proof
from kit.techniques.quantization.variants import onnx_runtime, products_in
from kit.techniques.quantization.workload import first

MAGIKA, SMALL = {"bytes": (2048,)}, {"image": small_net.SHAPE}
pytestmark = pytest.mark.usefixtures("model_project")


@pytest.fixture(scope="module")
def magika(model_project):
    return models.load(num_calibration=16, num_evaluation=16)


def with_defaults(model, path, **settings):
    """Quantize as ONNX Runtime does when it is told nothing else."""
    from onnxruntime.quantization import quantize_static

    with contextlib.redirect_stdout(io.StringIO()):
        quantize_static(model.onnx, path, precisions.Reader(model.calibration), **settings)
    return path


MADE = {
    "fp32": precisions.fp32,
    "fp16": precisions.fp16,
    "per channel": precisions.static_int8,
    "per tensor": partial(precisions.static_int8, per_channel=False),
    "entropy": partial(precisions.static_int8, method="entropy"),
    "percentile": partial(precisions.static_int8, method="percentile"),
}


@pytest.mark.parametrize("make", MADE)
def test_tensorrt_takes_every_file_that_is_meant_for_it(small, make):
    """FP32, FP16, INT8 per channel and per tensor, by each calibration, are parsed and built."""
    assert refusal(MADE[make](small).path, **SMALL) == ""


def test_tensorrt_takes_magika_s_files(magika):
    """INT8 of magika is built, whole and with one layer left in float."""
    name = next(node.name for node in precisions.simplified(magika.onnx).graph.node if node.op_type == "MatMul")
    assert refusal(precisions.static_int8(magika).path, **MAGIKA) == ""
    assert refusal(precisions.static_int8(magika, nodes_to_exclude=[name]).path, **MAGIKA) == ""


def test_default_settings_are_refused_for_their_zero_points(magika, tmp_path):
    """What ONNX Runtime makes unless told otherwise has asymmetric activations, and TensorRT says that."""
    reason = refusal(
        with_defaults(magika, tmp_path / "default.onnx", op_types_to_quantize=["MatMul", "Conv"]), **MAGIKA
    )
    assert "Non-zero zero point is not supported" in reason
    assert "\n" not in reason


def test_dynamic_quantization_is_refused_by_operator(magika):
    """Dynamic INT8 is ONNX Runtime's own: the reason names the operator that TensorRT has not."""
    reason = refusal(precisions.dynamic_int8(magika).path, **MAGIKA)
    assert "DynamicQuantizeLinear" in reason
    assert "not supported" in reason


def test_what_is_no_onnx_file_is_refused_and_no_harm_is_done(tmp_path):
    """A torn file has a reason in one line."""
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(b"not a model")
    assert refusal(torn) and refusal(tmp_path / "missing.onnx")


ON_A_GPU = [
    (tensorrt_engine.tensorrt, precisions.fp32, "tensorrt"),
    (tensorrt_engine.tensorrt, precisions.fp16, "tensorrt"),
    (tensorrt_engine.tensorrt, precisions.static_int8, "tensorrt"),
]


@pytest.mark.gpu
@pytest.mark.parametrize(("opener", "make", "requires"), ON_A_GPU)
def test_an_engine_on_a_gpu_gives_the_answers_and_proves_its_precision(small, opener, make, requires):
    """On a GPU, each engine runs in its precision and answers nearly as FP32 does."""
    if missing := capabilities.probe(requires):
        pytest.skip(missing.reason)
    engine, inputs = opener(make(small), small, 16, 1), first(small.evaluation, 16)
    expected = onnx_runtime(precisions.fp32(small), small, 16, 1).run(inputs)
    assert np.linalg.norm(engine.run(inputs) - expected) < 0.1 * np.linalg.norm(expected)
    assert engine.proof().state == "verified"


def layer(node, *inputs, **told):
    return {
        "Name": f"{node} + more",
        "Metadata": f"[ONNX Layer: q]\x1e[ONNX Layer: {node}]",
        "Inputs": [*inputs],
        **told,
    }


@pytest.mark.parametrize(
    ("told", "precision"),
    [
        (layer("a", {"Datatype": "Float"}, TacticName="sm80_xmma_gemm_i8i8_i8i32_f32_tn_n"), "INT8"),
        (layer("a", {"Datatype": "Half"}, Weights={"Type": "Int8", "Count": 9}), "INT8"),
        (layer("a", {"Datatype": "Half"}, TacticName="sm80_xmma_gemm_f16f16_f16f32_f32"), "FP16"),
        (layer("a", {"DataType": "BFloat16"}), "BF16"),
        (layer("a", {"Datatype": "Float"}, TacticName="sm80_xmma_gemm_f32f32_tf32f32"), "FP32"),
        (layer("a", {"Datatype": "UInt8"}), ""),
        (layer("a"), ""),
    ],
)
def test_a_layers_precision_is_that_of_weights_kernel_or_inputs(told, precision):
    """A product fused with the quantization before it takes floats and multiplies integers: its kernel tells."""
    assert tensorrt_engine.precision_of(told) == precision


def test_products_have_the_precision_of_the_layer_that_contains_them(small):
    """By the layers' own account, in the wording of TensorRT 10 and of 11; a product that no layer names has none, and
    where none ran in INT8 the proof is a fallback."""
    names = products_in(precisions.fp32(small))
    layers = [
        layer(names[0], {"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}),
        layer(names[1], {"Format": "Row major linear", "Datatype": "Float"}, LayerType="gemm"),
        "a layer that is only named",
    ]
    products = tensorrt_engine.products_run(names, layers)
    assert [product.precision for product in products] == ["INT8", "FP32", "", ""]
    assert proof(products, "INT8", 1).facts["in_int8"] == "1 of 4"
    assert proof(products[1:], "INT8", 1).state == "fell back"
