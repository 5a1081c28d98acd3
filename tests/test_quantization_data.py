"""The samples: the same labelled files on every machine, and any number of them calibrates by every method."""

import io
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kit.common import labelled_files as files
from kit.errors import UserError
from kit.techniques.quantization import bf16, models, onnx_files, precisions, workload
from kit.techniques.quantization.checks import Gate
from kit.techniques.quantization.variants import openvino

ROOT = Path(__file__).parents[1]
RANDOM = np.random.default_rng(0)
MANIFEST = files.manifest()
COUNTS = (17, 37, 100, 255)
"""Numbers of calibration samples: two primes, one that divides evenly, and one short of a round number."""


@pytest.fixture(scope="module")
def own(model_project):
    """An own ONNX file and an own .npz file with 1,500 samples, of which some 300 may calibrate."""
    weights = [("filters", (8, 3, 3, 3)), ("product", (288, 5))]
    constants = [numpy_helper.from_array(RANDOM.normal(size=shape).astype(np.float32), name) for name, shape in weights]
    nodes = [
        helper.make_node("Conv", ["inputs", "filters"], ["convolved"], name="conv"),
        helper.make_node("Relu", ["convolved"], ["positive"], name="relu"),
        helper.make_node("Flatten", ["positive"], ["flat"], name="flatten"),
        helper.make_node("MatMul", ["flat", "product"], ["outputs"], name="product"),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])] for name, shape in
            (("inputs", (3, 8, 8)), ("outputs", (5,)))]  # fmt: skip
    graph = helper.make_graph(nodes, "small", *ends, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(made, model_project / "small.onnx")
    inputs = RANDOM.normal(size=(1500, 3, 8, 8)).astype(np.float32)
    targets = onnx_files.run(made, {"inputs": inputs}).argmax(1)
    np.savez(model_project / "small.npz", inputs=inputs, targets=targets)
    return {"model": str(model_project / "small.onnx"), "data": str(model_project / "small.npz"), "num_evaluation": 100}


# Any number of samples ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", COUNTS)
@pytest.mark.parametrize("method", precisions.METHODS)
def test_any_number_of_samples_calibrates_by_every_method(own, number, method):
    """Every method takes all samples, and what it makes answers nearly as FP32 does."""
    model = models.load(**own, num_calibration=number)
    file = precisions.static_int8(model, method=method)
    assert file.settings["samples"] == number
    outputs, best = (onnx_files.run(path, model.evaluation) for path in (file.path, model.onnx))
    assert Gate(model, 0.9)(outputs, best).state == "passed"


def test_methods_choose_other_ranges(own):
    """Min-max takes in all values; entropy and percentile clip some."""
    model = models.load(**own, num_calibration=100)
    whole, clipped = (precisions.ranges(precisions.static_int8(model, method=one)) for one in ("min-max", "percentile"))
    largest = pytest.approx(np.abs(model.calibration["inputs"]).max())
    assert whole.keys() == clipped.keys() and clipped["inputs"] < whole["inputs"] == largest


# The same files on every machine --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole():
    return files.magika_samples(MANIFEST)


def test_every_file_of_the_manifest_is_here_as_it_was(whole):
    """An install by constraints.txt gives all files: a difference is an error, for results would differ too."""
    (_, targets), note = whole
    assert "missing" not in note
    assert len(targets) == sum(len(entry.hashes) for entry in MANIFEST)


def test_only_pinned_packages_are_in_the_manifest():
    """Each distribution of the manifest has its exact version in constraints.txt, and so has the model's."""
    pinned = set(re.findall(r"^\S+==\S+$", (ROOT / "constraints.txt").read_text(), re.M))
    assert {"magika==1.0.3", *(f"{entry.package}=={entry.version}" for entry in MANIFEST)} <= pinned


def test_the_default_samples_are_enough_and_never_overlap(model_project):
    """256 samples to calibrate with and 1,000 to evaluate by, of many types, none in both; BF16 costs a norm most."""
    model = models.load()
    assert (len(model.calibration["bytes"]), len(model.targets)) == (256, 1000)
    assert not set(models.digests(model.calibration)) & set(models.digests(model.evaluation))
    assert len(np.unique(model.targets)) >= 25
    assert max(np.bincount(model.targets)) < 0.4 * len(model.targets)
    outputs, targets = onnx_files.run(model.onnx, workload.first(model.evaluation, 200)), model.targets[:200]
    assert 0.8 < model.metric(outputs, targets) < 1 and model.metric(outputs, np.roll(targets, 1)) < 0.3
    for precision in ("BF16", "INT8"):  # OpenVINO names a product with a bias by the addition
        file = precisions.static_int8(model) if precision == "INT8" else precisions.fp32(model, precision)
        products = openvino(file, model, 1, 1).proof().facts
        assert products.get(f"in_{precision.lower()}", "3 of 3") == "3 of 3", products
    (layer, _, alone, _), (_, _, second, _), *_ = bf16.by_layer(model).rows
    assert layer == "LayerNorm_0" and alone < 0.96 * second


def test_another_version_is_named_and_its_files_left_out(whole):
    """Files that another version changed are missing: the note names the package and its pinned version."""
    first, *others = MANIFEST
    changed = first._replace(version="0.1", hashes=("A" * files.HASH_CHARS, *first.hashes[1:]))
    gone = others[-1]._replace(package="no-such-package")
    (features, targets), note = files.magika_samples([changed, *others[:-1], gone])
    assert len(targets) == len(whole[0][1]) - 1 - len(gone.hashes)
    assert {row.tobytes() for row in features} < {row.tobytes() for row in whole[0][0]}
    assert f"{1 + len(gone.hashes)} more are missing: pip install {first.package}==0.1 no-such-package==" in note


def test_too_few_files_are_refused():
    """With too few of the files here, nothing is evaluated by the rest."""
    gone = [entry._replace(package="no-such-package") for entry in MANIFEST[:3]]
    with pytest.raises(UserError, match=r"only 0 of the \d+ labelled files .*pip install no-such-package=="):
        files.magika_samples(gone)


CONTENTS = [
    b"a" * 64,
    b"  \n\t text with white space around " * 3 + b"\n \n",
    bytes(range(256)) * 4,
    b" " * 1000 + b"x" * 1024 + b" " * 1000,
    b" " * 5000 + b"late",
    bytes(RANDOM.integers(0, 256, 4096, np.uint8)),
    bytes(RANDOM.integers(0, 256, 9999, np.uint8)) + b"\n" * 50,
    b"\x00\x1c\x1d\x85\xa0 " * 300,
]


def test_features_are_magikas_own():
    """The model is given what magika itself would give it, for short, long, padded and real files."""
    from magika.magika import Magika
    from magika.types import Seekable

    real = [files._content(entry.package, entry.hashes[0]) for entry in MANIFEST[::5]]
    for content in CONTENTS + real:
        theirs = Magika._extract_features_from_seekable(Seekable(io.BytesIO(content)), 1024, 0, 1024, 256, 4096, False)
        assert files.magika_input(content).tolist() == theirs.beg + theirs.end
