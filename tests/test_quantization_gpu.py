"""The engines of a GPU: the same functions on the CPU where there is none, and on a GPU where there is one."""

from dataclasses import replace

import numpy as np
import pytest
import small_net

from kit.errors import UserError
from kit.machine import capabilities
from kit.techniques.quantization.engines import on_cpu, on_gpu, proof
from kit.techniques.quantization.smaller import precisions


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_net.subject(tmp_path_factory.mktemp("small"))


@pytest.fixture
def uncompiled(monkeypatch):
    """Compiling is torch's affair, and takes a minute."""
    monkeypatch.setattr("torch.compile", lambda module: module)


def answers(engine, subject, batch):
    """Return the engine's answer to the first samples, and how far it is from FP32's, as a share of that."""
    inputs = on_cpu.first(subject.evaluation, batch)
    expected = on_cpu.onnx_runtime(precisions.fp32(subject), subject, batch, 1).run(inputs)
    got = engine.run(inputs)
    assert got.dtype == np.float32
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


# --- ONNX Runtime -----------------------------------------------------------------------------------------------------


def test_a_provider_that_ran_every_product_is_proven(small):
    """Where all products ran on the provider that was asked for, the proof names it and what it ran."""
    engine = on_gpu.by_provider(
        "CPUExecutionProvider", precisions.static_int8(precisions.fp32(small), small), small, 4, 1
    )
    assert answers(engine, small, 4) < 0.1
    proven = engine.proof()
    assert proven.state == "engaged"
    assert "CPUExecutionProvider" in proven.facts["provider"]


def test_a_product_on_the_cpu_is_a_fallback():
    """One convolution that the CPU ran instead of the GPU makes the variant invalid, and the proof counts it."""
    there = proof.Product("a", "MatMul", on_gpu.CUDA, "FP16", 90)
    ran = proof.Ran(
        (there, replace(there, provider="CPUExecutionProvider")), {on_gpu.CUDA: 8, "CPUExecutionProvider": 3}
    )
    found = on_gpu.ran_by(on_gpu.CUDA, ran, "FP16", 2)
    assert found.state == "fell back"
    assert found.note == "CPUExecutionProvider for 1 of 2 products"
    assert found.facts["provider"] == "8 nodes by CUDAExecutionProvider, 3 nodes by CPUExecutionProvider"
    assert on_gpu.ran_by(on_gpu.CUDA, replace(ran, products=(there,)), "FP16", 2).state == "engaged"


def test_integers_computed_in_float_are_a_fallback():
    """ONNX Runtime's CUDA provider computes Q/DQ pairs in float: no INT8 there."""
    ran = proof.Ran((proof.Product("a", "MatMul", on_gpu.CUDA, "FP32", 90),), {on_gpu.CUDA: 8})
    assert on_gpu.ran_by(on_gpu.CUDA, ran, "INT8", 2).state == "fell back"


# --- PyTorch ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "worst"), [("FP32", 1e-4), ("BF16", 0.05), ("FP16", 0.01)])
def test_pytorch_runs_in_each_float_and_proves_it(small, uncompiled, precision, worst):
    """Weights and inputs are of the artefact's precision, and all products with them; answers are FP32 again."""
    engine = on_gpu.on_device("cpu", replace(precisions.fp32(small), precision=precision), small, 4, 1)
    assert answers(engine, small, 4) < worst
    proven = engine.proof()
    assert proven.state == "engaged"
    assert proven.costs["low_precision"] == 1


def test_a_model_without_a_module_is_a_users_error(small):
    """PyTorch needs a module; an ONNX file alone says so."""
    with pytest.raises(UserError, match="PyTorch needs a module"):
        on_gpu.on_device("cpu", precisions.fp32(small), replace(small, build=None), 4, 1)


def test_torchao_quantizes_the_linear_layers_that_fit_and_says_their_share(small, uncompiled):
    """Of the small net, torchao takes the first linear layer; its share of the multiplications is what is claimed."""
    ao = pytest.importorskip("torchao.quantization")
    artefact = replace(precisions.fp32(small), precision="INT8")
    engine = on_gpu.on_device("cpu", artefact, small, 4, 1, ao.Int8DynamicActivationInt8WeightConfig())
    assert answers(engine, small, 4) < 0.1
    products = 8 * 9 * 10 * 10, 16 * 8 * 9 * 4 * 4, 256 * 64, 64 * 10
    assert engine.proof().costs["low_precision"] == pytest.approx(products[2] / sum(products))


def test_torchao_with_nothing_to_quantize_is_a_users_error():
    """A net of convolutions only, or of odd sides, has nothing for torchao, and the error says what else to do."""
    torch = pytest.importorskip("torch")
    ao = pytest.importorskip("torchao.quantization")
    net = torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3), torch.nn.Linear(16, 10))
    with pytest.raises(UserError, match="multiples of 16, and the model has none"):
        on_gpu.quantize(net, ao.Int8DynamicActivationInt8WeightConfig())


# --- on a GPU ---------------------------------------------------------------------------------------------------------

ON_A_GPU = [
    (on_gpu.onnx_runtime_cuda, "FP32", ["onnxruntime cuda"]),
    (on_gpu.onnx_runtime_cuda, "FP16", ["onnxruntime cuda"]),
    (on_gpu.pytorch_cuda, "FP32", ["torch cuda"]),
    (on_gpu.pytorch_cuda, "BF16", ["torch cuda"]),
    (on_gpu.torchao_int8, "INT8", ["torch cuda", "torchao"]),
    (on_gpu.torchao_fp8, "FP8", ["torch cuda", "torchao"]),
]


@pytest.mark.gpu
@pytest.mark.parametrize(("opener", "precision", "needs"), ON_A_GPU)
def test_an_engine_of_a_gpu_answers_and_proves_its_precision(small, opener, precision, needs):
    """On a GPU, each engine runs in its precision and answers nearly as FP32 does."""
    if missing := capabilities.missing(needs):
        pytest.skip(missing.reason)
    source = precisions.fp32(small)
    filed = precision == "FP16" and opener is on_gpu.onnx_runtime_cuda
    artefact = precisions.fp16(source, small) if filed else replace(source, precision=precision)
    engine = opener(artefact, small, 32, 1)
    assert answers(engine, small, 32) < 0.1
    assert engine.proof().state == "engaged"
