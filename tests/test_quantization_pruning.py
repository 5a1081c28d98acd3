"""Pruning: zeros that stay, channels that are gone, choices that never see the evaluation; the net to start from."""

import pickle
from dataclasses import replace
from functools import cache, partial

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from kit.errors import UserError
from kit.techniques.quantization.engines import on_tensorrt
from kit.techniques.quantization.smaller import finetuning, pruning
from kit.techniques.quantization.smaller.precisions import static_int8
from kit.techniques.quantization.subjects import nets
from kit.techniques.quantization.subjects.onnx_files import export
from kit.techniques.quantization.work import Subject

CLASSES = 4


class Skipping(nn.Module):
    """An own net whose channels hang together: what goes around a convolution is added to what comes out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(16 * 4 * 4, CLASSES)

    def forward(self, x):
        x = self.first(x)
        return self.head(nn.functional.avg_pool2d(x + self.second(x), 2).flatten(1))


class Stubborn(nn.Module):
    """An own net whose forward counts on as many channels as it was written with."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(64, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(self.first(x.flatten(1)).relu().view(-1, 8))


def pictures(number, seed):
    """Noise, brighter in the quarter that is the class."""
    random = np.random.default_rng(seed)
    inputs, targets = random.standard_normal((number, 1, 8, 8)).astype(np.float32), random.integers(0, CLASSES, number)
    for picture, target in zip(inputs[:, 0], targets, strict=True):
        row, column = divmod(int(target), 2)
        picture[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.7
    return torch.from_numpy(inputs), torch.from_numpy(targets)


def learning():
    return pictures(512, 1), pictures(256, 2)


def build(kind, folder):
    module = kind()
    module.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return module.eval()


def refuse(*_):
    raise AssertionError("nobody may ask for this")


def own(folder, kind=Skipping):
    """A subject that has no evaluation at all: what is pruned without an error never looked at it."""
    (inputs, targets), _ = learning()
    torch.manual_seed(0)
    module = kind()
    optimizer = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9)
    for batch in torch.arange(len(inputs)).repeat(4).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(inputs[batch]), targets[batch]).backward()
        optimizer.step()
    torch.save(module.eval().state_dict(), folder / "weights.pt")
    samples = {"pictures": pictures(64, 3)[0].numpy()}
    np.savez(folder / "calibration.npz", **samples)
    export(module, samples, folder / "model.onnx")
    return Subject("own", folder, refuse, "none", partial(build, kind, folder), learning)


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return own(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def made(subject):
    """Each method's artefact, made once."""
    shares = {"unstructured": 0.8, "structured": 0.5, "2:4": 0.5}
    return cache(lambda method: pruning.pruned(subject, method, shares[method], 2, subject.folder / "made"))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for each other on a busy machine would take minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weights(module):
    return [layer.weight.detach() for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def outputs(path, inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"pictures": inputs.numpy()})[0]


def accuracy(logits, targets):
    return float((np.asarray(logits).argmax(-1) == targets.numpy()).mean())


@pytest.mark.parametrize("method", pruning.METHODS)
def test_the_file_computes_what_the_pruned_module_computes(made, method):
    """The ONNX file, in any batch, equals the module that the artefact builds, also after a journey by pickle."""
    artefact, (inputs, _) = made(method), pictures(37, 4)
    with torch.no_grad():
        module = pickle.loads(pickle.dumps(artefact.build))()
        np.testing.assert_allclose(outputs(artefact.path, inputs), module(inputs).numpy(), atol=1e-4)
    assert not module.training


@pytest.mark.parametrize("method", pruning.METHODS)
def test_fine_tuning_brings_back_what_pruning_cost(subject, made, method):
    """What was pruned and fine-tuned is right nearly as often as before, on pictures that nobody has seen."""
    inputs, targets = pictures(512, 5)
    before, after = (accuracy(outputs(path, inputs), targets) for path in (subject.onnx, made(method).path))
    assert before > 0.9
    assert after > before - 0.03


def test_zeros_stay_zero(subject, made):
    """Fine-tuning moves the weights that are left and none of those that were pruned: in the module and in the file."""
    left, before = weights(made("unstructured").build()), weights(subject.build())
    zeros = sum(int((one == 0).sum()) for one in left) / sum(one.numel() for one in left)
    assert zeros == pytest.approx(0.8, abs=0.001)
    assert made("unstructured").settings["zeros"] == zeros
    kept = [(one[one != 0], was[one != 0]) for one, was in zip(left, before, strict=True)]
    assert all((one != was).any() for one, was in kept)
    border = min(float(was.abs().min()) for _, was in kept)  # all the pruned were smaller than any that stayed
    assert all((was[one == 0].abs() <= border).all() for one, was in zip(left, before, strict=True))
    written = [onnx.numpy_helper.to_array(one) for one in onnx.load(made("unstructured").path).graph.initializer]
    written = [one for one in written if one.ndim > 1]
    assert sum(int((one == 0).sum()) for one in written) >= 0.799 * sum(one.numel() for one in left)


def test_removed_channels_are_no_work_any_more(subject, made):
    """Structured pruning leaves fewer parameters and multiplications, the others as many as there were."""
    told = {method: pruning.numbers(made(method)) for method in pruning.METHODS}
    assert told["structured"].parameters < 0.6 * told["structured"].parameters_before
    assert told["structured"].multiplications < 0.6 * told["structured"].multiplications_before
    assert told["structured"].zeros < 0.01
    for method in ("unstructured", "2:4"):
        assert told[method].parameters == told[method].parameters_before
        assert told[method].multiplications == told[method].multiplications_before
    by_hand = 64 * 9 * (1 * 16 + 16 * 16) + 256 * CLASSES
    assert told["structured"].multiplications_before == by_hand
    assert [tuple(one.shape) for one in weights(made("structured").build())] == [(8, 1, 3, 3), (8, 8, 3, 3), (4, 128)]
    assert made("structured").path.stat().st_size < subject.onnx.stat().st_size


def test_two_of_each_four_are_zero(made):
    """2:4 leaves exactly two in each four input channels, at each place of a kernel; what has no fours it leaves."""
    first, second, head = weights(made("2:4").build())
    fours = (second.movedim(1, -1).reshape(-1, 4), head.reshape(-1, 4))
    assert all(((four == 0).sum(1) == 2).all() for four in fours)
    assert (first != 0).all()


def test_pruned_and_quantized_together(subject, made):
    """The pruned file has its batch norms folded, and static INT8 of it answers as it does."""
    assert not [node for node in onnx.load(made("structured").path).graph.node if "BatchNorm" in node.op_type]
    quantized, (inputs, targets) = static_int8(made("structured"), subject), pictures(512, 5)
    kinds = [one.op_type for one in onnx.load(quantized.path).graph.node]
    assert kinds.count("QuantizeLinear") >= 3
    both = [accuracy(outputs(path, inputs), targets) for path in (made("structured").path, quantized.path)]
    assert both[1] == pytest.approx(both[0], abs=0.02)


def test_the_best_by_the_validation_stays(subject):
    """Where training makes it worse on the validation, the module stays as it did best; only the validation decides."""
    train, (inputs, targets) = learning()
    wrong, wrongly = (train[0], (train[1] + 1) % CLASSES), (inputs, (targets + 1) % CLASSES)
    judged = subject.build()
    before = finetuning.judged(judged, inputs, targets)
    reached = finetuning.tuned(judged, wrong, (inputs, targets), 6)
    assert reached == finetuning.judged(judged, inputs, targets)[0] >= before[0]
    misjudged = subject.build()
    finetuning.tuned(misjudged, wrong, wrongly, 6)
    assert finetuning.judged(misjudged, inputs, targets)[0] < 0.5


def test_what_lies_there_whole_is_not_made_again(subject, made):
    """Asked again, the same artefact comes back, and nothing is built or trained for it."""
    again = pruning.pruned(replace(subject, train=refuse), "2:4", 0.5, 2, subject.folder / "made")
    assert again.sha256 == made("2:4").sha256
    assert again.settings == made("2:4").settings


def test_what_is_damaged_is_made_again(subject, tmp_path):
    """A file that was cut short, be it the ONNX file or the module's, is noticed, and both are made again."""
    for suffix in (".onnx", ".pt"):
        artefact = pruning.pruned(subject, "unstructured", 0.5, 0, tmp_path)
        (file,) = tmp_path.glob(f"*{suffix}")
        file.write_bytes(file.read_bytes()[:-100])
    again = pruning.pruned(subject, "unstructured", 0.5, 0, tmp_path)
    inputs, _ = pictures(8, 6)
    with torch.no_grad():
        np.testing.assert_allclose(outputs(again.path, inputs), again.build()(inputs).numpy(), atol=1e-4)
    assert again.settings["zeros"] == artefact.settings["zeros"] == 0.5


@pytest.mark.parametrize(
    ("change", "asked", "words"),
    [
        ({}, ("magic", 0.5, 1), "no pruning called 'magic'; it is one of unstructured, structured, 2:4"),
        ({}, ("unstructured", 1.0, 1), "share=1 must lie between 0 and 1"),
        ({}, ("2:4", 0.7, 1), "give 0.5"),
        ({}, ("structured", 0.95, 1), "none of a layer's 16 channels; give at most 0.938"),
        (
            {"build": lambda: nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten())},
            ("structured", 0.5, 1),
            "no channels that",
        ),
        ({}, ("unstructured", 0.5, -1), "epochs=-1 must be 0"),
        ({"build": None}, ("unstructured", 0.5, 1), "pruning needs a module"),
        ({"train": None}, ("unstructured", 0.5, 1), "without training data"),
        ({"build": nn.Flatten}, ("unstructured", 0.5, 1), "neither a convolution nor a linear layer"),
        ({"build": lambda: nn.Conv2d(1, 3, 8)}, ("unstructured", 0.5, 1), "let it return logits"),
        ({"build": lambda: nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten())}, ("2:4", 0.5, 1), "multiple of four"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(subject, tmp_path, change, asked, words):
    """What can't be pruned is refused, with what to do, and leaves nothing behind."""
    with pytest.raises(UserError, match=words):
        pruning.pruned(replace(subject, **change), *asked, tmp_path)
    assert not list(tmp_path.iterdir())


def test_several_inputs_are_refused(subject, tmp_path):
    """A model with two inputs is refused by their names."""
    for name in ("model.onnx", "weights.pt"):
        (tmp_path / name).write_bytes((subject.folder / name).read_bytes())
    np.savez(tmp_path / "calibration.npz", left=np.zeros((2, 1)), right=np.zeros((2, 1)))
    with pytest.raises(UserError, match="takes left, right; only a model with one input"):
        pruning.pruned(replace(subject, folder=tmp_path), "unstructured", 0.5, 1, tmp_path)


def test_channels_that_the_forward_counts_on_are_not_removed(tmp_path):
    """A forward that holds a number of channels is told of, and such a module can still be pruned to zeros."""
    subject = own(tmp_path, Stubborn)
    with pytest.raises(UserError, match=r"can't be removed .*; use unstructured or 2:4"):
        pruning.pruned(subject, "structured", 0.5, 0, tmp_path)
    assert pruning.pruned(subject, "2:4", 0.5, 0, tmp_path).settings["zeros"] == 0.5


def test_the_net_learns_digits(tmp_path):
    """The digits' net is right on 97 % of the pictures that neither it nor any choice has seen."""
    nets.trained("digits", tmp_path)
    _, (inputs, targets) = nets.dataset("digits")
    with torch.no_grad():
        assert accuracy(nets.build(tmp_path)(inputs), targets) >= 0.97


def test_learning_leaves_the_test_alone():
    """What is learned from, what choices are made by and what is judged by are three sets of pictures."""
    _, test = nets.dataset("digits")
    halves = [{one.numpy().tobytes() for one in inputs} for inputs, _ in (*nets.learning("digits"), test)]
    assert [len(half) for half in halves] == [3500, 500, 1000]
    assert not (halves[0] & halves[1] or halves[0] & halves[2] or halves[1] & halves[2])


def test_the_net_is_trained_once(tmp_path, monkeypatch):
    """Weights that lie there whole are used again; those cut short, or another data's, are made again, the same."""
    few = (torch.randn(8, 1, 28, 28), torch.arange(8)), None
    monkeypatch.setattr(nets, "learning", lambda name: few)
    path = nets.trained("digits", tmp_path)
    first, state = path.stat(), nets.build(tmp_path).state_dict()
    assert nets.trained("digits", tmp_path).stat().st_mtime_ns == first.st_mtime_ns
    whole = path.read_bytes()
    for damaged in (whole[:-1000], b"no weights", b""):
        path.write_bytes(damaged)
        nets.trained("digits", tmp_path)
        assert all(torch.equal(one, nets.build(tmp_path).state_dict()[name]) for name, one in state.items())
    nets.trained("fashion", tmp_path)
    assert path.stat().st_mtime_ns > first.st_mtime_ns


def test_a_net_that_is_not_there_is_told(tmp_path):
    """An unknown name, and a folder with no weights, are told with what to do."""
    with pytest.raises(UserError, match="no pictures are called 'cats'; there are digits, fashion"):
        nets.trained("cats", tmp_path)
    with pytest.raises(UserError, match=r"call trained\(name, folder\) first"):
        nets.build(tmp_path)


@pytest.mark.parametrize("method", pruning.METHODS)
def test_tensorrt_takes_what_is_pruned_and_quantized(subject, made, method):
    """A pruned model in INT8 is parsed and built like any other Q/DQ file."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX comes for Linux on x86 alone")
    assert on_tensorrt.accepted(static_int8(made(method), subject).path) is None
