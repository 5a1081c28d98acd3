"""The models: built in and your own, data whose parts never overlap, mistakes in one sentence."""

import pickle
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from kit.errors import UserError
from kit.techniques.quantization import builtin_models, models, onnx_files, pruning

RANDOM = np.random.default_rng(0)


@pytest.fixture
def own(model_project, monkeypatch):
    """Write a module of the user's own and return its name."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions within a second would be taken for one

    def write(name: str, code: str) -> str:
        (model_project / f"{name}.py").write_text("import numpy as np\nimport torch\nfrom torch import nn\n\n" + code)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


def hashes(inputs) -> set[bytes]:
    return set(models.digests(inputs))


# Built in -------------------------------------------------------------------------------------------------------------


def test_digits_are_trained_once_and_never_on_the_evaluation(model_project, monkeypatch):
    """After one epoch the network is right on 90 % of images that it has not seen; images to fine-tune and calibrate
    with are none of the evaluation's; a second call trains nothing."""
    monkeypatch.setattr(builtin_models, "EPOCHS", 1)
    monkeypatch.setattr(builtin_models, "WIDTHS", (16, 16, 32, 64))
    digits = models.load("digits", num_calibration=100, num_evaluation=1000)
    assert digits.metric(onnx_files.run(digits.onnx, digits.evaluation), digits.targets) >= 0.9
    tune = hashes({"images": digits.train()[0].numpy()})
    judge, calibrate = hashes(digits.evaluation), hashes(digits.calibration)
    assert not judge & (tune | calibrate)
    assert (len(tune), len(judge), len(calibrate)) == (4000, 1000, 100)
    monkeypatch.setattr(pruning, "fine_tune", lambda *_: 1 / 0)
    assert models.load("digits", num_calibration=100).build() is not None


# Dividing -------------------------------------------------------------------------------------------------------------


def some(number: int, seed: int = 0) -> models.Samples:
    random = np.random.default_rng(seed)
    return {"x": random.normal(size=(number, 4)).astype(np.float32)}, random.integers(0, 3, number)


def test_a_division_is_stable():
    """Neither the order of samples nor others beside them change where a sample goes."""
    (inputs, targets), order = some(300), np.random.default_rng(1).permutation(300)
    whole = models.divide([(inputs, targets)], 1000, 1000)
    again = models.divide([({"x": inputs["x"][order]}, targets[order])], 1000, 1000)
    assert all(np.array_equal(whole[part]["x"], again[part]["x"]) for part in (0, 1))
    assert np.array_equal(whole[2], again[2])
    fewer = models.divide([({"x": inputs["x"][:150]}, targets[:150])], 1000, 1000)
    assert all(hashes(fewer[part]) <= hashes(whole[part]) for part in (0, 1))
    assert len(whole[2]) + len(whole[0]["x"]) == 300


def test_targets_stay_with_their_inputs_and_equal_samples_together():
    """A sample keeps its target; one that comes many times is never in both parts."""
    inputs = {"x": np.arange(200, dtype=np.float32)[:, None]}
    calibration, evaluation, targets = models.divide([(inputs, np.arange(200))], 20, 100)
    assert np.array_equal(evaluation["x"][:, 0].astype(int), targets)
    assert (len(calibration["x"]), len(targets)) == (20, 100)
    repeated = {"x": np.repeat(some(100)[0]["x"], 5, axis=0)}
    calibration, evaluation, _ = models.divide([(repeated, np.arange(500))], 1000, 1000)
    assert not hashes(calibration) & hashes(evaluation)


def test_samples_of_both_halves_are_only_evaluated():
    """A sample of the training half that is also in the other neither calibrates nor fine-tunes."""
    train, test = some(200, 1), some(100, 2)
    train[0]["x"][:50] = test[0]["x"][:50]
    calibration, evaluation, _ = models.divide([train, test], 1000, 1000)
    assert len(calibration["x"]) == 150
    assert not hashes(calibration) & hashes(evaluation)
    assert len(models._to_train(lambda: (train, test))[0]) == 150


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
def test_an_own_file_works_with_own_data(model_project, batch):
    """An own ONNX file is taken as it is, whatever batch it names; its copy runs in every batch and is as good."""
    path = linear(model_project / f"mine-{batch}.onnx", batch)
    made = models.load(str(path), data=stored(model_project / "mine.npz"), num_calibration=30, num_evaluation=100)
    assert made.metric(onnx_files.run(made.onnx, made.evaluation), made.targets) == 1
    assert onnx.load(made.onnx).graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert (made.name, len(made.targets), made.build) == (f"mine-{batch}", 100, None)
    assert not hashes(made.calibration) & hashes(made.evaluation)


def test_other_weights_or_data_have_another_folder(model_project):
    """What a folder is called depends on the model and on the data, not on their names."""
    path, arrays = model_project / "same.onnx", stored(model_project / "same.npz")
    first, again = (models.load(str(linear(path)), data=arrays).folder for _ in range(2))
    assert first == again
    second = models.load(str(linear(path, weight=np.ones((4, 3), np.float32))), data=arrays).folder
    third = models.load(str(path), data=stored(model_project / "same.npz", 150)).folder
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


def test_an_own_module_works_with_own_data(own, model_project):
    """A module with dropout and batch norm comes in eval mode, exported, with halves to tune, and with its metric."""
    name = own("mine_net", NET)
    made = models.load(f"{name}:build", data=f"{name}:load", metric=f"{name}:one_right", num_evaluation=50)
    module = made.build()
    with torch.inference_mode():
        wanted = module(torch.from_numpy(made.evaluation["picture"])).numpy()
    assert np.allclose(onnx_files.run(made.onnx, made.evaluation), wanted, atol=1e-5)
    assert (made.name, made.metric_name, len(made.targets), module.training) == ("mine_net", "one right", 50, False)
    assert made.metric(wanted, made.targets) == 2.0
    inputs, targets = made.train()
    assert (len(inputs), inputs.dtype, targets.dtype) == (200, torch.float32, torch.int64)
    assert pickle.loads(pickle.dumps(made)).build() is not None


def test_a_module_whose_code_changed_is_exported_again(own, model_project):
    """The same weights with another forward give another file, though nothing else tells them apart."""
    arrays = stored(model_project / "forward.npz")
    code = "class Net(nn.Linear):\n    def forward(self, x): return super().forward(x) * {factor}\n"
    code += "def build():\n    torch.manual_seed(0)\n    return Net(4, 3)\n"
    outputs = []
    for factor in (1, 2):
        name = own("mine_forward", code.format(factor=factor))
        made = models.load(f"{name}:build", data=arrays)
        outputs.append(onnx_files.run(made.onnx, made.evaluation))
    assert np.allclose(outputs[0] * 2, outputs[1], atol=1e-5)


def test_an_own_module_may_take_several_inputs(own, model_project):
    """Inputs go to the forward by the names of its parameters, in its order, whole numbers as whole numbers."""
    code = "class Net(nn.Linear):\n    def forward(self, right, left): return super().forward(right - 2.0 * left)\n"
    name = own("mine_two", code + "def build():\n    net = Net(3, 3, bias=False)\n"
                       "    nn.init.eye_(net.weight)\n    return net\n")  # fmt: skip
    inputs = {"left": RANDOM.integers(0, 9, (80, 3)), "right": RANDOM.normal(size=(80, 3))}
    arrays = model_project / "two.npz"
    np.savez(arrays, targets=(inputs["right"] - 2 * inputs["left"]).argmax(1), **inputs)
    made = models.load(f"{name}:build", data=str(arrays))
    assert list(made.evaluation) == ["right", "left"]
    assert made.evaluation["left"].dtype == np.int64
    assert made.metric(onnx_files.run(made.onnx, made.evaluation), made.targets) == 1
    assert made.train is None


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"num_calibration": 0}, "num_calibration=0 is not allowed; give a whole number of at least 2"),
        ({"num_evaluation": -5}, "num_evaluation=-5 is not allowed"),
        ({"model": "magica"}, "model='magica' is unknown; did you mean 'magika'"),
        ({"model": "resnet"}, "choose from: magika, digits, or give 'path/to/file.onnx' or 'package.module:build'"),
        ({"data": "x.npz"}, "data='x.npz' is for your own model, and 'magika' has its own"),
        ({"metric": "acuracy"}, "'acuracy' is not the address of a function"),
        ({"metric": "no_such_module:f"}, "no module no_such_module"),
        ({"model": "mine.onnx"}, "needs data: give data='file.npz' with inputs and targets"),
        ({"model": "not_there.onnx", "data": "x.npz"}, "not_there.onnx does not exist"),
        ({"model": "no_such_module:build", "data": "x.npz"}, "no module no_such_module"),
        ({"model": "builtins:dict", "data": "x.npz"}, "returned dict; let it return a trained torch.nn.Module"),
    ],
)
def test_wrong_parameters_are_refused(model_project, asked, says):
    """Names and numbers that make no sense are refused in one sentence, before anything is made."""
    with pytest.raises(UserError, match=says) as raised:
        models.load(**asked)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"targets": np.zeros(9)}, "200 x, 9 targets; give one of each per sample"),
        ({"x": np.zeros((200, 4))}, "has the inputs inputs, x; the model takes x"),
        (
            {"inputs": RANDOM.normal(size=(200, 5))},
            r"can't take x \[1, 5\] of float32 .*give samples of the shape",
        ),
        ({"inputs": np.full((200, 4), np.nan)}, "800 of 800 values are NaN or infinite"),
        ({"inputs": np.array(["a"] * 200)}, r"x is <U1 of shape \[200\]; give an array of numbers"),
        ({"targets": np.full(200, 3)}, "accuracy needs one class per sample, from 0 up"),
        ({"targets": np.zeros((200, 3))}, "accuracy needs one class per sample, from 0 up"),
        ({"inputs": np.zeros((200, 4))}, "none in both; give 50 or more that differ"),
        ({"inputs": np.ones((9, 4)), "targets": np.ones(9)}, "of 9 samples .* give 50 or more"),
    ],
)
def test_data_that_does_not_fit_is_refused(model_project, arrays, says):
    """What is wrong with own data is told with what the model takes."""
    with pytest.raises(UserError, match=says) as raised:
        models.load(str(linear(model_project / "fit.onnx")), data=stored(model_project / "wrong.npz", **arrays))
    assert "\n" not in str(raised.value)


def test_data_that_cannot_be_read_is_refused(own, model_project):
    """No file, a damaged one, one without targets, another kind, a function that returns something else."""
    model = str(linear(model_project / "fine.onnx"))
    broken, bare = model_project / "broken.npz", model_project / "bare.npz"
    broken.write_bytes(b"PK not really")
    np.savez(bare, inputs=np.zeros((60, 4)))
    name = own("mine_data", "def load(): return 5\n")
    for given, says in (
        ("none.npz", r"none.npz does not exist .*; give a file of numpy.savez"),
        (str(broken), r"can't be read \(.*\); write it by numpy.savez"),
        (str(bare), "has inputs; add the right answer of each sample as targets"),
        ("data.csv", r"data.csv does not exist .*; give a file of numpy.savez"),
        (f"{name}:load", r"returned int; let it return \(inputs, targets\)"),
    ):
        with pytest.raises(UserError, match=says):
            models.load(model, data=given)


def test_a_file_that_cannot_be_used_is_refused(model_project):
    """An ONNX file that is none, has its batch built in, or is not plain FP32 is refused with the reason."""
    arrays = stored(model_project / "use.npz")
    (model_project / "torn.onnx").write_bytes(b"\x08torn")
    half = linear(model_project / "half.onnx", weight=np.eye(4, 3, dtype=np.float16))
    quantized = onnx.load(linear(model_project / "quantized.onnx"))
    quantized.graph.node[1].op_type = "QuantizeLinear"
    onnx.save(quantized, model_project / "quantized.onnx")
    for path, says in (
        (model_project / "torn.onnx", "can't be read as ONNX"),
        (half, "contains FLOAT16; give the FP32 model"),
        (model_project / "quantized.onnx", "contains QuantizeLinear; give the FP32 model"),
        (
            linear(model_project / "baked.onnx", 1, bake=True),
            "export it with a free batch dimension",
        ),
    ):
        with pytest.raises(UserError, match=says):
            models.load(str(path), data=arrays)


def graph_of(path: Path, nodes: list, outputs: dict[str, int], **weights: np.ndarray) -> str:
    """Write an ONNX file: x [n, 4] → outputs [n, …] by name."""
    ends = [helper.make_tensor_value_info(name, 1, ["n", size]) for name, size in {"x": 4, **outputs}.items()]
    constants = [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "own", ends[:1], ends[1:], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return str(path)


def test_of_several_outputs_one_is_chosen(model_project):
    """A file with a hidden layer, a detector's boxes and scores: its outputs are named; the one that is chosen is
    evaluated, and what only the others need is left out."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["scores"]),
        helper.make_node("MatMul", ["hidden", "v"], ["boxes"]),
    ]
    outputs = {"boxes": 2, "hidden": 3, "scores": 3}
    path = graph_of(model_project / "several.onnx", nodes, outputs, w=np.eye(4, 3), v=np.ones((3, 2)))
    arrays = stored(model_project / "several.npz")
    for name in ("", "score"):
        with pytest.raises(UserError, match=rf"output='{name}' is none of .*; choose from: boxes, hidden, scores"):
            models.load(path, arrays, output=name)
    made = models.load(path, arrays, output="scores")
    assert [node.op_type for node in onnx.load(made.onnx).graph.node] == ["MatMul", "Relu"]
    assert onnx_files.run(made.onnx, made.evaluation).shape == (len(made.targets), 3)


def branch(name: str) -> onnx.GraphProto:
    nodes = [helper.make_node("MatMul", ["x", f"w_{name}"], [name])]
    weight = numpy_helper.from_array(np.eye(4, 3, dtype=np.float32), f"w_{name}")
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, 1, ["n", 3])], [weight])


@pytest.mark.parametrize(
    ("nodes", "kinds"),
    [
        ([helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml")], "TreeEnsembleRegressor"),
        (
            [
                helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
                helper.make_node("Cast", ["sum"], ["yes"], to=onnx.TensorProto.BOOL),
                helper.make_node("If", ["yes"], ["y"], then_branch=branch("one"), else_branch=branch("other")),
            ],
            "Cast, If, ReduceSum",
        ),
        ([helper.make_node("Softmax", ["x"], ["y"])], "Softmax"),
    ],
)
def test_a_file_with_nothing_to_quantize_is_refused(model_project, nodes, kinds):
    """Trees, weights inside the branches of an If, no weights at all: one sentence with what the graph is made of."""
    path = graph_of(model_project / "nothing.onnx", nodes, {"y": 3})
    with pytest.raises(
        UserError, match=f"nothing to quantize: its graph is of {kinds}, without .*; give another model"
    ):
        models.load(path, stored(model_project / "nothing.npz"))


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def build(): return nn.Linear(4, 3)", "return the same trained weights each time"),
        ("def build(): return nn.Linear(4, 3).half()", r"has weights that are not float32; return it .float\(\)"),
        ("def build(): return nn.Bilinear(4, 4, 3)", "has the inputs inputs; the model takes input1, input2"),
        ("def build(): return nn.Flatten(0)", r"returned \[12\] for 3 samples; return one tensor"),
        ("def build(): return nn.Softmax(1)", "build has nothing to quantize: its graph is of Softmax"),
        (
            "def build():\n    torch.manual_seed(0)\n"
            "    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False))",
            "batch norms without running statistics.*; export it",
        ),
        ("def build(): return nn.Conv2d(1, 1, 9)", r"can't take input \[3, 4\] of float32: RuntimeError"),
    ],
)
def test_a_module_that_cannot_be_used_is_refused(own, model_project, code, says):
    """What is no trained FP32 module for this data is refused, before it is exported."""
    name = own("mine_wrong", code + "\n")
    with pytest.raises(UserError, match=says):
        models.load(f"{name}:build", data=stored(model_project / "module.npz"))


def test_a_metric_that_fails_is_refused(own, model_project):
    """A metric of the user's own is tried on a few outputs, and what it raises is told."""
    name = own("mine_metric", "def fails(outputs, targets): return outputs.nothing\n")
    with pytest.raises(UserError, match=r"fails for outputs \[32, 3\] and targets \[\d+\] of int64: AttributeError"):
        models.load(str(linear(model_project / "m.onnx")), stored(model_project / "m.npz"), f"{name}:fails", 50, 100)
