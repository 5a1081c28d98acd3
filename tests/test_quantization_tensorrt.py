"""TensorRT takes the kit's files and refuses those it should, by its own parser and builder, on every machine. What
runs on a GPU only is held to its documented interface here, and run where there is one."""

import contextlib
import ctypes
import importlib.util
import io
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_net

from kit.errors import UserError
from kit.machine import capabilities
from kit.techniques.quantization.accuracy import accuracy
from kit.techniques.quantization.engines import on_cpu, on_tensorrt, proof
from kit.techniques.quantization.engines.on_tensorrt import accepted
from kit.techniques.quantization.smaller import fp8, precisions
from kit.techniques.quantization.work import Subject


@pytest.fixture(scope="module")
def rtx():
    try:
        return on_tensorrt.rtx()
    except ModuleNotFoundError:
        pytest.skip("TensorRT-RTX is not installed: pip install -e '.[test]'")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_net.subject(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def magika(tmp_path_factory):
    """magika's own model, with bytes as it gets them: the beginnings and ends of files, here of its own package."""
    folder, package = tmp_path_factory.mktemp("magika"), Path(importlib.util.find_spec("magika").origin).parent
    (folder / "model.onnx").symlink_to(next(package.glob("models/*/model.onnx")))
    files = sorted(package.rglob("*.py"))[:16]
    whole = np.stack([np.frombuffer(file.read_bytes()[:1024].ljust(2048), np.uint8) for file in files]).astype(np.int32)
    np.savez(folder / "calibration.npz", bytes=whole)
    np.savez(folder / "evaluation.npz", bytes=whole, targets=np.zeros(len(whole), int))
    return Subject("magika", folder, accuracy, "accuracy")


def with_defaults(subject, path, **settings):
    """Quantize as ONNX Runtime does when it is told nothing else."""
    from onnxruntime.quantization import quantize_static

    with contextlib.redirect_stdout(io.StringIO()):
        quantize_static(subject.onnx, path, precisions.Reader(subject.calibration), **settings)
    return path


# --- what TensorRT takes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["magika", "small"])
@pytest.mark.parametrize("make", ["fp32", "fp16", "per channel", "per tensor", "fp8"])
def test_tensorrt_takes_every_file_that_is_meant_for_it(rtx, request, which, make):
    """FP32, FP16, INT8 by channel and by tensor, and FP8, of magika's model and of a convolutional net, are parsed and
    built."""
    subject = request.getfixturevalue(which)
    source = precisions.fp32(subject)
    makers = {
        "fp32": lambda: source,
        "fp16": lambda: precisions.fp16(source, subject),
        "per channel": lambda: precisions.static_int8(source, subject),
        "per tensor": lambda: precisions.static_int8(source, subject, per_channel=False),
        "fp8": lambda: fp8.fp8(source, subject),
    }
    assert accepted(makers[make]().path) is None


def test_tensorrt_takes_a_mixed_model(rtx, magika):
    """A file with one layer left in float is taken as well."""
    name = on_cpu.layers(magika.onnx, magika)[0].name
    made = precisions.static_int8(precisions.fp32(magika), magika, exclude=[name])
    assert accepted(made.path) is None


def test_tensorrt_takes_each_way_of_calibration(rtx, small):
    """Which ranges a calibration found makes no difference to what the file is."""
    for method in ("entropy", "percentile"):
        assert accepted(precisions.static_int8(precisions.fp32(small), small, method=method).path) is None


# --- what it refuses --------------------------------------------------------------------------------------------------


def test_default_settings_are_refused_for_their_zero_points(rtx, magika, tmp_path):
    """What ONNX Runtime makes unless told otherwise has asymmetric activations, and TensorRT says that."""
    reason = accepted(with_defaults(magika, tmp_path / "default.onnx", op_types_to_quantize=["MatMul", "Conv"]))
    assert "Non-zero zero point is not supported" in reason
    assert "\n" not in reason


def test_an_integer_bias_is_refused(rtx, small, tmp_path):
    """Symmetric, but with its bias in INT32, a file is still refused."""
    symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True}
    made = with_defaults(small, tmp_path / "bias.onnx", extra_options=symmetric)
    assert "Int32" in accepted(made) or "INT32" in accepted(made)


def test_dynamic_quantization_is_refused_by_operator(rtx, magika):
    """Dynamic INT8 is ONNX Runtime's own: the reason names the operator that TensorRT has not."""
    reason = accepted(precisions.dynamic_int8(precisions.fp32(magika), magika).path)
    assert "DynamicQuantizeLinear" in reason
    assert "not supported" in reason


def test_every_operator_in_int8_is_refused(rtx, magika):
    """The lesson of what not to do is no file for TensorRT either."""
    made = precisions.static_int8(precisions.fp32(magika), magika, ops=())
    assert "uantize" in accepted(made.path)


def test_fp8_is_refused_where_the_gpu_has_none(rtx, small):
    """FP8 is built for compute capability 8.9, and not for 8.0."""
    made = fp8.fp8(precisions.fp32(small), small)
    assert "fp8" in accepted(made.path, target="SM80")
    assert accepted(made.path, target="SM120") is None


def test_what_is_no_onnx_file_is_refused_and_no_harm_is_done(rtx, tmp_path):
    """A torn file has a reason in one line."""
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(b"not a model")
    assert accepted(torn)
    assert accepted(tmp_path / "missing.onnx")


def test_a_crash_of_the_library_takes_no_more_than_its_own_process(rtx, small, monkeypatch):
    """The library may crash: then that is the reason."""
    monkeypatch.setattr(on_tensorrt.sys, "executable", "/bin/false")
    assert "ended with status 1" in accepted(small.onnx)


def test_a_batch_that_the_file_does_not_take_is_refused(rtx, small, tmp_path):
    """A file of a fixed batch is for that batch only."""
    model = onnx.load(small.onnx)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, tmp_path / "four.onnx")
    with pytest.raises(on_tensorrt.Refused, match="4 samples at a time, and 8 were asked"):
        on_tensorrt.build(rtx, tmp_path / "four.onnx", {"image": small_net.SHAPE}, 8, lambda config: None)


# --- engines are kept -------------------------------------------------------------------------------------------------


def test_an_engine_is_built_once_for_a_file_a_batch_and_a_gpu(rtx, small, tmp_path, monkeypatch):
    """The second time it is read from disk; another batch, GPU or version has its own. Timings are kept beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    built = []
    monkeypatch.setattr(on_tensorrt, "_with_timings", without_gpu(rtx, built))
    device = types.SimpleNamespace(name="NVIDIA made up", major=8, minor=9)
    artefact, shapes = precisions.static_int8(precisions.fp32(small), small), {"image": small_net.SHAPE}
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # RTX keeps its timings elsewhere
        first = on_tensorrt._kept_plan(rtx, artefact, shapes, 8, device)
        assert on_tensorrt._kept_plan(rtx, artefact, shapes, 8, device) == first
        assert len(built) == 1
        on_tensorrt._kept_plan(rtx, artefact, shapes, 4, device)
        on_tensorrt._kept_plan(rtx, artefact, shapes, 8, types.SimpleNamespace(name="other", major=8, minor=9))
    assert len(built) == 3
    folder = tmp_path / "data" / "quantization" / "engines"
    assert (len(list(folder.glob("*.engine"))), len(list(folder.glob("*.timings")))) == (3, 2)


def without_gpu(rtx, built):
    """Return `_with_timings`, which also has TensorRT-RTX build for a GPU that is not here, and notes each build."""
    kept = on_tensorrt._with_timings

    def configure(config, known):
        kept(config, known)
        config.num_compute_capabilities = 1
        config.set_compute_capability(rtx.ComputeCapability.SM89, 0)
        built.append(known)

    return configure


# --- a request --------------------------------------------------------------------------------------------------------


class Doubling:
    """An engine and its context in one, as TensorRT's interface has them: y = 2 x, in memory that it is given."""

    def __init__(self, trt):
        self.trt, self.shape, self.addresses, self.ran = trt, None, {}, []
        self.num_io_tensors = 2

    def get_tensor_name(self, index):
        return "xy"[index]

    def get_tensor_dtype(self, name):
        return {"x": self.trt.DataType.INT32, "y": self.trt.DataType.FLOAT}[name]

    def get_tensor_mode(self, name):
        return {"x": self.trt.TensorIOMode.INPUT, "y": self.trt.TensorIOMode.OUTPUT}[name]

    def set_input_shape(self, name, shape):
        assert name == "x"
        self.shape = shape

    def get_tensor_shape(self, name):
        return self.shape

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        number = int(np.prod(self.shape))
        read = (ctypes.c_int32 * number).from_address(self.addresses["x"])
        (ctypes.c_float * number).from_address(self.addresses["y"])[:] = [2 * value for value in read]
        self.ran.append(stream)
        return True


def test_a_request_is_copied_in_run_and_copied_out(rtx):
    """Inputs reach the addresses that were bound once, of the engine's types; the answer is the caller's to keep."""
    engine = Doubling(rtx)
    run = on_tensorrt.bound(rtx, engine, engine, {"x": (3,)}, 2, None)
    first = run({"x": np.array([[1, 2, 3], [4, 5, 6]], np.int64)})
    second = run({"x": np.zeros((2, 3), np.int32)})
    assert first.tolist() == [[2, 4, 6], [8, 10, 12]]
    assert second.tolist() == [[0, 0, 0]] * 2
    assert len(engine.addresses) == len(engine.ran) == 2


def test_the_stand_in_has_nothing_that_tensorrt_has_not(rtx):
    """Each method that the stand-in has is one of the real classes of TensorRT's interface."""
    ours = {name for name in vars(Doubling) if not name.startswith("_")}
    assert ours <= set(dir(rtx.ICudaEngine)) | set(dir(rtx.IExecutionContext))


@pytest.mark.gpu
@pytest.mark.parametrize("make", ["fp16", "int8", "fp8"])
def test_an_engine_on_a_gpu_gives_the_answers_and_proves_its_precision(small, make, tmp_path, monkeypatch):
    """On a GPU, each precision really runs, and answers nearly as FP32 does."""
    if missing := capabilities.probe("tensorrt"):
        pytest.skip(missing.reason)
    monkeypatch.chdir(tmp_path)
    source = precisions.fp32(small)
    makers = {"fp16": precisions.fp16, "int8": precisions.static_int8, "fp8": fp8.fp8}
    engine = on_tensorrt.tensorrt_(makers[make](source, small), small, 16, 1)
    inputs = on_cpu.first(small.evaluation, 16)
    expected = on_cpu.onnx_runtime(source, small, 16, 1).run(inputs)
    assert np.linalg.norm(engine.run(inputs) - expected) < 0.1 * np.linalg.norm(expected)
    assert engine.proof().state == "engaged"


# --- the proof --------------------------------------------------------------------------------------------------------

PRODUCTS = (
    proof.Product("conv1", "Conv", "CPU", "FP32", 750),
    proof.Product("dense", "MatMul", "CPU", "FP32", 200),
    proof.Product("last", "MatMul", "CPU", "FP32", 50),
)


def layer(node, *inputs, **told):
    return {
        "Name": f"{node} + more",
        "Metadata": f"[ONNX Layer: q]\x1e[ONNX Layer: {node}]",
        "Inputs": [*inputs],
        **told,
    }


def test_the_share_counts_multiplications_of_layers_in_the_precision():
    """By the layers' own account, in the wording of TensorRT 10 and in that of 11, of plain layers and fused ones."""
    told = {
        "Layers": [
            layer("conv1", {"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}),
            layer("dense", {"Format": "Row major linear", "Datatype": "Int8"}, LayerType="gemm"),
            layer("last", {"Format/Datatype": "Row major linear FP32"}),
            "a layer that is only named",
        ]
    }
    ran = on_tensorrt.ran_in(told, PRODUCTS)
    assert ran.share("INT8") == pytest.approx(0.95)
    assert ran.share("FP32") == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("told", "precision"),
    [
        (layer("a", {"Datatype": "Float"}, TacticName="sm80_xmma_gemm_i8i8_i8i32_f32_tn_n"), "INT8"),
        (layer("a", {"Datatype": "Half"}, Weights={"Type": "Int8", "Count": 9}), "INT8"),
        (layer("a", {"Datatype": "FP8"}), "FP8"),
        (layer("a", {"Datatype": "Half"}, TacticName="sm90_xmma_gemm_e4m3e4m3_e4m3f32_f32"), "FP8"),
        (layer("a", {"Datatype": "Half"}, TacticName="sm80_xmma_gemm_f16f16_f16f32_f32"), "FP16"),
        (layer("a", {"DataType": "BFloat16"}), "BF16"),
        (layer("a", {"Datatype": "Float"}, TacticName="sm80_xmma_gemm_f32f32_tf32f32"), "FP32"),
        (layer("a", {"Datatype": "UInt8"}), ""),
        (layer("a"), ""),
    ],
)
def test_a_layers_precision_is_that_of_weights_kernel_or_inputs(told, precision):
    """A product fused with the quantization before it takes floats and multiplies integers: its kernel tells."""
    assert on_tensorrt.precision_of(told) == precision


def test_an_engine_that_stayed_in_float_fell_back():
    """Where no product ran in INT8 the proof is a fallback; a product that no layer names counts as not in INT8."""
    told = {"Layers": [layer("conv1", {"Datatype": "Float"})]}
    ran = on_tensorrt.ran_in(told, PRODUCTS)
    assert proof.ran_as("INT8", ran.share("INT8"), "TensorRT", 1).state == "fell back"
    assert [product.precision for product in ran.products] == ["FP32", "", ""]


def test_a_file_that_tensorrt_refuses_is_a_users_error(rtx, magika, tmp_path, monkeypatch):
    """Opening an engine on such a file says so, with TensorRT's own reason, before anything else of the GPU is used."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt", rtx)
    gpu = types.SimpleNamespace(name="NVIDIA made up", major=9, minor=0)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda number: gpu)
    with pytest.raises(UserError, match=r"does not take .*DynamicQuantizeLinear"):
        on_tensorrt.tensorrt_(precisions.dynamic_int8(precisions.fp32(magika), magika), magika, 1, 1)
