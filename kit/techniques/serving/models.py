"""The model that is served and its requests: magika's in FP32 or INT8, a small network, or your own."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from kit.common import address, datasets, disk_cache, parameters, readers
from kit.errors import UserError
from kit.machine import fingerprint

BEGINNING = 4096
"""Bytes of a file's beginning, and of its end, that magika's features are made of."""

Predict = Callable[[np.ndarray], np.ndarray]
"""Samples [N, …] → outputs [N, …]."""
SENT = (".py", ".pyi", ".h", ".txt", ".json", ".so", ".npz", ".html")
"""Suffixes of the files whose type is asked."""


@dataclass(frozen=True)
class Model:
    """A model to serve, and what is asked of it.

    load: number of threads → `Predict`; called once in each replica. decode: body of a request → its sample, without
    the batch dimension; raises ValueError for a malformed one. bodies: number → bodies of as many requests, all
    different as long as there are enough. name: for titles. bound_ms: longest latency, unless another is asked for."""

    load: Callable[[int], Predict]
    decode: Callable[[bytes], np.ndarray]
    bodies: Callable[[int], list[bytes]]
    name: str = "your model"
    bound_ms: float = 50.0


def opened(model: str) -> Model:
    """Return the model that a parameter names: "magika" (the type of a file), "magika INT8", "small" (about a
    millisecond), "model.onnx" with samples beside it in "model.npz", or "package.module:build", which returns a
    `Model`. Raise `UserError` for another name."""
    if model.endswith(".onnx"):
        return from_file(Path(model))
    if ":" not in model:
        return BUILT_IN[parameters.one_of(model, BUILT_IN, "model")]()
    made = address.call(address.resolve(model), {})
    if not isinstance(made, Model):
        raise UserError(f"model={model!r} returns {type(made).__name__}; return a kit.techniques.serving.models.Model")
    return made


def session(path: Path, threads: int) -> Predict:
    """Return the first output of an ONNX model by ONNX Runtime on so many threads of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # replicas share the cores
    with readers.readable(str(path)):
        made = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    wanted, given = [made.get_outputs()[0].name], made.get_inputs()[0].name
    return lambda samples: made.run(wanted, {given: samples})[0]


# Magika ---------------------------------------------------------------------------------------------------------------


def magika() -> Model:
    """Return magika's model, which finds the type of a file. A request is a file's beginning and end."""
    path = datasets.magika_folder() / "model.onnx"
    return Model(partial(session, path), _features, lambda number: list(islice(_files(), number)), "magika's model")


def magika_int8() -> Model:
    """Return magika's model with matrix products and convolutions in INT8 (Q/DQ), calibrated on 64 files."""
    return replace(magika(), load=lambda threads: session(_int8_file(), threads), name="magika's model in INT8")


def _features(body: bytes) -> np.ndarray:
    if len(body) > 2 * BEGINNING:
        raise ValueError(f"send at most {2 * BEGINNING:,} bytes: the first and the last {BEGINNING:,} of the file")
    return datasets.magika_input(body)


def _files() -> Iterator[bytes]:
    """Yield what is sent of each installed file of Python and its packages, all different."""
    seen: set[bytes] = set()
    for folder in (Path(os.__file__).parent, Path(np.__file__).parents[1]):
        for path in (Path(place, name) for place, _, names in os.walk(folder) for name in sorted(names)):
            content = path.read_bytes() if path.suffix in SENT else b""
            sent = content[:BEGINNING] + content[max(BEGINNING, len(content) - BEGINNING) :]
            if sent and sent not in seen:
                seen.add(sent)
                yield sent


def _int8_file() -> Path:
    source = datasets.magika_folder() / "model.onnx"
    narrow = not any("VNNI" in name or "AMX" in name for name in fingerprint.machine().instructions)

    def write(folder: Path) -> None:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        simple, samples = folder / "simple.onnx", ({"bytes": _features(sent)[None]} for sent in islice(_files(), 64))
        quant_pre_process(source, simple, skip_symbolic_shape=True)
        quantize_static(
            simple, folder / "model.onnx", SimpleNamespace(get_next=lambda: next(samples, None)), per_channel=True,
            quant_format=QuantFormat.QDQ, activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Conv"], reduce_range=narrow,
        )  # fmt: skip

    return disk_cache.folder("serving-int8", (source.stat().st_size, narrow), write) / "model.onnx"


# A small network, and your own file ----------------------------------------------------------------------------------

SMALL = """<ir_version: 9, opset_import: ["": 17]>
small (float[batch, 1, 28, 28] image) => (float[batch, 10] output) {
    a = Conv<pads = [1, 1, 1, 1]>(image, w0)   b = Relu(a)
    c = Conv<pads = [1, 1, 1, 1]>(b, w1)   d = Relu(c)
    e = Conv<pads = [1, 1, 1, 1]>(d, w2)   f = Relu(e)
    g = GlobalAveragePool(f)   h = Flatten(g)   output = MatMul(h, w3)
}"""


def small() -> Model:
    """Return a convolutional network with random weights, 28 × 28 grey values to ten outputs: 117 million operations,
    of the order of a millisecond on one core."""

    def write(folder: Path) -> None:
        import onnx

        random, model = np.random.default_rng(0), onnx.parser.parse_model(SMALL)
        for place, shape in enumerate([(64, 1, 3, 3), (64, 64, 3, 3), (64, 64, 3, 3), (64, 10)]):
            weight = random.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(weight, f"w{place}"))
        onnx.save(model, folder / "model.onnx")

    def bodies(number: int) -> list[bytes]:
        return [image.tobytes() for image in np.random.default_rng(0).random((number, 784), np.float32)]

    path = disk_cache.folder("serving-small", (SMALL, 64), write) / "model.onnx"
    decode = partial(tensor, like=np.zeros((1, 28, 28), np.float32))
    return Model(partial(session, path), decode, bodies, "a small network", 20.0)


def from_file(path: Path) -> Model:
    """Return the model of an ONNX file with one input; its samples are the array of that name in the file `.npz` beside
    it, along the first dimension. Raise `UserError` for missing files or another number of inputs."""
    path, beside = readers.whole(path, "the path of an ONNX file"), path.with_suffix(".npz")
    with readers.readable(str(readers.whole(beside, "the model's samples there, by numpy.savez", zipped=True))):
        samples = dict(np.load(beside, allow_pickle=False))
    if len(samples) != 1:
        raise UserError(f"{beside.name} has {len(samples)} arrays; give one, or use model='package.module:build'")
    (array,) = samples.values()

    def bodies(number: int) -> list[bytes]:
        return [array[place % len(array)].tobytes() for place in range(number)]

    return Model(partial(session, path), partial(tensor, like=array[0]), bodies, f"the model {path.stem}")


def tensor(body: bytes, like: np.ndarray) -> np.ndarray:
    """Return the array whose bytes these are, of the dtype and shape of `like`. Raise ValueError for another length."""
    if len(body) != like.nbytes:
        raise ValueError(f"a sample has {like.nbytes:,} bytes ({like.dtype}, {list(like.shape)}); got {len(body):,}")
    return np.frombuffer(body, like.dtype).reshape(like.shape)


def offline(model: Model, bodies: list[bytes]) -> list[tuple[int, float]]:
    """Return what the model answers without a server, one sample at a time: see `top`."""
    predict = model.load(1)
    return [top(predict(model.decode(body)[None])[0]) for body in bodies]


def top(output: Any) -> tuple[int, float]:
    """Return place and value of the largest output of one sample: what a server answers."""
    flat = np.ravel(output)
    place = int(flat.argmax())
    return place, float(flat[place])


BUILT_IN = {"magika": magika, "magika INT8": magika_int8, "small": small}
