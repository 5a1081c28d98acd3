"""LiteRT and ExecuTorch give the model's answers in FP32, hold them in INT8, and prove what they ran."""

import importlib.util

import numpy as np
import pytest

from kit.techniques.quantization import edge, precisions
from kit.techniques.quantization.checks import accuracy
from kit.techniques.quantization.workload import ModelFile

BATCH = 4

LITERT = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("litert_torch", "ai_edge_quantizer"))), reason="LiteRT is not installed"
)
EXECUTORCH = pytest.mark.skipif(not importlib.util.find_spec("executorch"), reason="ExecuTorch is not installed")

OPENERS = [pytest.param(edge.litert, marks=LITERT), pytest.param(edge.executorch, marks=EXECUTORCH)]


pytestmark = pytest.mark.usefixtures("model_project")


@pytest.fixture(scope="module")
def model(small):
    return small


def answers(engine, model):
    images = model.evaluation["image"]
    return np.concatenate([engine.run({"image": images[i : i + BATCH]}) for i in range(0, len(images), BATCH)])


def by_torch(model):
    import torch

    with torch.no_grad():
        return model.build()(torch.from_numpy(model.evaluation["image"])).numpy()


@pytest.mark.parametrize("opener", OPENERS)
def test_fp32_gives_the_model_s_outputs(opener, model):
    """The converted model gives the module's own outputs, for each request of the batch that it was made for."""
    engine = opener(precisions.fp32(model), model, BATCH, 1)
    assert np.allclose(answers(engine, model), by_torch(model), atol=1e-3)
    proven = engine.proof()
    assert proven.state == "verified" and proven.facts["threads"] == 1
    assert proven.facts["provider"] == f"4 products by {'LiteRT' if opener is edge.litert else 'XNNPACK'}"


@pytest.mark.parametrize("opener", OPENERS)
def test_int8_holds_the_accuracy(opener, model):
    """In INT8 the answers hold, the outputs differ, so that it is no FP32, and all products are proven to be INT8."""
    asked = ModelFile(model.onnx, "INT8")
    engine = opener(asked, model, BATCH, 2)
    outputs, reference = answers(engine, model), by_torch(model)
    assert accuracy(outputs, model.targets) >= 0.98 * accuracy(reference, model.targets)
    apart = np.linalg.norm(outputs - reference) / np.linalg.norm(reference)
    assert 1e-4 < apart < 0.1  # LiteRT averages ranges over requests, which clips a little
    proven = engine.proof()
    assert proven.facts["in_int8"] == "4 of 4" and proven.facts["threads"] == 2


@pytest.mark.parametrize("opener", OPENERS)
def test_converts_once(opener, model, monkeypatch):
    """What was converted is kept."""
    opener(precisions.fp32(model), model, BATCH, 1)
    for name in ("_to_litert", "_to_executorch"):
        monkeypatch.setattr(edge, name, lambda *_: pytest.fail("converted again"))
    assert np.allclose(answers(opener(precisions.fp32(model), model, BATCH, 1), model), by_torch(model), atol=1e-3)


def test_a_product_left_in_float_is_found():
    """The proof of LiteRT is by the types of both factors: INT8, float, and floats times INT8, which is computed in
    float."""
    kinds = ["int8", "int8", "float32", "float32", "float32", "int8"]
    nodes = [{"op_name": "CONV_2D", "inputs": [one, one + 1]} for one in (0, 2, 4)] + [{"op_name": "ADD", "inputs": []}]

    class Interpreter:
        _get_ops_details = staticmethod(lambda: nodes)
        _get_tensor_details = staticmethod(lambda i, _: {"dtype": kinds[i]})

    assert [product.precision for product in edge._litert_products(Interpreter)] == ["INT8", "FP32", "FP32"]
