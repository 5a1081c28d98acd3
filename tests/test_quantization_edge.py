"""LiteRT and ExecuTorch give the model's answers in FP32, hold them in INT8, and prove what they ran."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import small_net

from kit.errors import UserError
from kit.techniques.quantization.accuracy import accuracy
from kit.techniques.quantization.engines import edge
from kit.techniques.quantization.smaller import precisions
from kit.techniques.quantization.work import Artefact

BATCH = 4

LITERT = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("litert_torch", "ai_edge_quantizer"))), reason="LiteRT is not installed"
)
EXECUTORCH = pytest.mark.skipif(not importlib.util.find_spec("executorch"), reason="ExecuTorch is not installed")

OPENERS = [pytest.param(edge.litert, marks=LITERT), pytest.param(edge.executorch_, marks=EXECUTORCH)]


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return small_net.subject(tmp_path_factory.mktemp("small"))


def answers(engine, subject):
    images = subject.evaluation["image"]
    return np.concatenate([engine.run({"image": images[i : i + BATCH]}) for i in range(0, len(images), BATCH)])


def by_torch(subject):
    import torch

    with torch.no_grad():
        return subject.build()(torch.from_numpy(subject.evaluation["image"])).numpy()


@pytest.mark.parametrize("opener", OPENERS)
def test_fp32_gives_the_model_s_outputs(opener, subject):
    """The converted model gives the module's own outputs, for each request of the batch that it was made for."""
    engine = opener(precisions.fp32(subject), subject, BATCH, 1)
    assert np.allclose(answers(engine, subject), by_torch(subject), atol=1e-3)
    proven = engine.proof()
    assert proven.state == "engaged" and proven.facts["threads"] == 1
    assert proven.facts["provider"] == "4 products by XNNPACK" and proven.costs["low_precision"] == 1


@pytest.mark.parametrize("opener", OPENERS)
def test_int8_holds_the_accuracy(opener, subject):
    """In INT8 the answers hold, the outputs differ, so that it is no FP32, and all products are proven to be INT8."""
    asked = Artefact(subject.onnx, "INT8")
    engine = opener(asked, subject, BATCH, 2)
    outputs, reference = answers(engine, subject), by_torch(subject)
    assert accuracy(outputs, subject.targets) >= 0.98 * accuracy(reference, subject.targets)
    apart = np.linalg.norm(outputs - reference) / np.linalg.norm(reference)
    assert 1e-4 < apart < 0.05
    proven = engine.proof()
    assert proven.facts["in_int8"] == "100 %" and proven.costs["low_precision"] == 1 and proven.facts["threads"] == 2
    macs = 8 * 9 * 100 + 16 * 8 * 9 * 16 + 256 * 64 + 64 * 10
    assert proven.costs["multiplications"] == BATCH * macs


@pytest.mark.parametrize("opener", OPENERS)
def test_converts_once(opener, subject, monkeypatch):
    """What was converted is kept for the same weights; other weights are converted anew."""
    opener(precisions.fp32(subject), subject, BATCH, 1)
    for name in ("_to_litert", "_to_executorch"):
        monkeypatch.setattr(edge, name, _refuse)
    again = opener(precisions.fp32(subject), subject, BATCH, 1)
    assert np.allclose(answers(again, subject), by_torch(subject), atol=1e-3)
    with pytest.raises(AssertionError, match="converted"):
        opener(replace(precisions.fp32(subject), build=_untrained), subject, BATCH, 1)


def _refuse(*_):
    raise AssertionError("converted")


def _untrained():
    return small_net._net().eval()


def test_a_product_left_in_float_is_told():
    """The proof of LiteRT tells types and kernels apart: INT8 that XNNPACK was not handed, and float that it was."""
    tensors = {
        0: ("int8", [4, 32]), 1: ("int8", [64, 32]), 2: ("int8", [4, 64]),
        3: ("float32", [4, 5, 5, 8]), 4: ("float32", [1, 3, 3, 8]), 5: ("float32", [4, 3, 3, 8]),
    }  # fmt: skip
    nodes = [
        {"index": 0, "op_name": "FULLY_CONNECTED", "inputs": [0, 1], "outputs": [2]},
        {"index": 1, "op_name": "DEPTHWISE_CONV_2D", "inputs": [3, 4], "outputs": [5]},
        {"index": 2, "op_name": "DELEGATE", "inputs": [4], "outputs": [5]},
    ]

    class Interpreter:
        _get_ops_details = staticmethod(lambda: nodes)
        _get_tensor_details = staticmethod(lambda i, _: dict(zip(("dtype", "shape"), tensors[i], strict=True)))

    product, convolution = edge._by_litert(Interpreter)
    assert (product.precision, product.provider) == ("INT8", "LiteRT's own kernels")
    assert (convolution.precision, convolution.provider) == ("FP32", "XNNPACK")
    assert product.multiplications == 4 * 64 * 32 and convolution.multiplications == 4 * 3 * 3 * 8 * 9


def test_what_is_wrong_is_said(subject):
    """A precision that is not made here, and a subject that is a file only, are refused in a sentence."""
    pytest.importorskip("litert_torch")
    with pytest.raises(UserError, match="litert-torch is run in FP32 and INT8 here, and this file is FP16"):
        edge.litert(Artefact(subject.onnx, "FP16"), subject, 1, 1)
    with pytest.raises(UserError, match="is an ONNX file, and PyTorch needs a module"):
        edge.litert(precisions.fp32(subject), replace(subject, build=None), 1, 1)
