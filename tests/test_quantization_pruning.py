"""Pruning: zeros that stay, channels that are removed, choices that never see the evaluation, a fine-tuned baseline."""

from dataclasses import replace
from functools import cache, partial

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from small_net import refusal
from torch import nn

from kit.errors import UserError
from kit.techniques.quantization import pruning
from kit.techniques.quantization.onnx_files import export
from kit.techniques.quantization.precisions import static_int8
from kit.techniques.quantization.workload import Model

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
    return pictures(512, 1)


def build(folder):
    module = Skipping()
    module.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return module.eval()


def refuse(*_):
    raise AssertionError("nobody may ask for this")


def own(folder):
    """A model that has no evaluation at all: what is pruned without an error never looked at it."""
    inputs, targets = learning()
    torch.manual_seed(0)
    module = Skipping()
    optimizer = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9)
    for batch in torch.arange(len(inputs)).repeat(4).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(inputs[batch]), targets[batch]).backward()
        optimizer.step()
    torch.save(module.eval().state_dict(), folder / "weights.pt")
    samples = {"pictures": pictures(64, 3)[0].numpy()}
    np.savez(folder / "calibration.npz", **samples)
    onnx.save(export(lambda: module, samples), folder / "model.onnx")
    return Model("own", folder, refuse, "none", partial(build, folder), learning)


@pytest.fixture(scope="module", autouse=True)
def model(model_project, tmp_path_factory):
    return own(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def made(model):
    """Each method's file, made once."""
    shares = {"none": 0.0, "unstructured": 0.8, "channels": 0.5, "2:4": 0.5}
    return cache(lambda method: pruning.pruned(model, method, shares[method], 2))


def weights(path):
    """Return the weights of an ONNX file's products and convolutions, the convolutions first."""
    found = [onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer]
    return sorted((one for one in found if one.ndim in (2, 4)), key=lambda one: (-one.ndim, one.shape[1]))


def outputs(path, inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"pictures": inputs.numpy()})[0]


def accuracy(logits, targets):
    return float((np.asarray(logits).argmax(-1) == targets.numpy()).mean())


def test_fine_tuning_brings_back_what_pruning_cost(model, made):
    """A pruned and fine-tuned model is right nearly as often as before, on images that nothing has seen."""
    inputs, targets = pictures(512, 5)
    before = accuracy(outputs(model.onnx, inputs), targets)
    assert before > 0.9
    assert all(accuracy(outputs(made(method).path, inputs), targets) > before - 0.03 for method in pruning.PRUNE)


def test_the_baseline_is_fine_tuned_as_the_pruned_models_are(model, made):
    """The unpruned baseline has all its weights, trained further: pruning gets no credit for the training."""
    assert [one.shape for one in weights(made("none").path)] == [one.shape for one in weights(model.onnx)]
    assert all((ours != was).any() for ours, was in zip(weights(made("none").path), weights(model.onnx), strict=True))
    assert made("none").settings["epochs"] == made("2:4").settings["epochs"] == 2


def test_zeros_stay_zero(made):
    """Fine-tuning moves none of the weights that were pruned: the file has the zeros that its numbers say."""
    left = weights(made("unstructured").path)
    zeros = sum(int((one == 0).sum()) for one in left) / sum(one.size for one in left)
    assert made("unstructured").settings["zeros"] == pytest.approx(zeros) == pytest.approx(0.8, abs=0.001)


def test_removed_channels_are_no_work_any_more(model, made):
    """Without half the channels there are fewer parameters and multiplications; zeros leave both as they were."""
    before, by_hand = made("none").settings, 64 * 9 * (1 * 16 + 16 * 16) + 256 * CLASSES
    removed = made("channels").settings
    assert before["multiplications"] == by_hand
    assert removed["parameters"] < 0.6 * before["parameters"] and removed["zeros"] < 0.01
    assert removed["multiplications"] < 0.6 * before["multiplications"]
    for method in ("unstructured", "2:4"):
        assert made(method).settings["parameters"] == before["parameters"]
        assert made(method).settings["multiplications"] == before["multiplications"]
    assert [one.shape for one in weights(made("channels").path)][:2] == [(8, 1, 3, 3), (8, 8, 3, 3)]
    assert made("channels").mib < 0.7 * made("none").mib


def test_two_of_each_four_are_zero(made):
    """2:4 leaves exactly two in each four input channels, at each place of a kernel; other layers keep theirs."""
    first, second, _ = weights(made("2:4").path)
    assert ((np.moveaxis(second, 1, -1).reshape(-1, 4) == 0).sum(1) == 2).all()
    assert (first != 0).all()


def test_pruned_and_quantized_together(model, made):
    """Static INT8 of a pruned file answers as the pruned file does, and is another file than INT8 of the whole."""
    quantized, (inputs, targets) = static_int8(model, source=made("channels")), pictures(512, 5)
    assert [one.op_type for one in onnx.load(quantized.path).graph.node].count("QuantizeLinear") >= 3
    both = [accuracy(outputs(path, inputs), targets) for path in (made("channels").path, quantized.path)]
    assert both[1] == pytest.approx(both[0], abs=0.02)
    assert quantized.mib < static_int8(model).mib


@pytest.mark.parametrize(
    ("change", "asked", "words"),
    [
        ({}, ("magic", 0.5, 1), "method='magic' is unknown; choose from: none, unstructured, 2:4, channels"),
        ({}, ("channels", 0.95, 1), "none of a layer's 16 channels; give at most 0.938"),
        ({"build": lambda: nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten())}, ("channels", 0.5, 1), "no channels that"),
        ({}, ("unstructured", 0.5, -1), "epochs=-1 is not allowed"),
        ({"build": None}, ("unstructured", 0.5, 1), "it takes a module with one input"),
        ({"train": None}, ("unstructured", 0.5, 1), "and training data"),
        ({"build": nn.Flatten}, ("unstructured", 0.5, 1), "neither a convolution nor a linear layer"),
        ({"build": lambda: nn.Conv2d(1, 3, 8)}, ("unstructured", 0.5, 1), "give logits"),
    ],
)
def test_a_mistake_is_refused_in_a_sentence(model, change, asked, words):
    """What can't be pruned is refused, with the remedy."""
    with pytest.raises(UserError, match=words):
        pruning.pruned(replace(model, name="wrong", **change), *asked)


@pytest.mark.parametrize("shares", [[0], [0.5, 1]])
def test_shares_lie_between_none_and_all(shares):
    """A share of nothing or of everything is refused; others name their variants."""
    with pytest.raises(UserError, match="above 0 and below 1"):
        pruning.ways(shares)
    assert list(pruning.ways([0.5])) == ["50 % unstructured", "2:4 sparsity", "50 % of channels"]


def test_channels_that_the_forward_counts_on_are_not_removed():
    """A forward with a fixed number of channels is refused."""
    with pytest.raises(UserError, match=r"can't be removed .*; use unstructured or 2:4"):
        pruning.channels(Stubborn(), pictures(1, 1)[0], 0.5)


class Fixed(nn.Module):
    """A frozen batch norm as detectors have it: buffers instead of parameters."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("factor", torch.linspace(0.5, 1.5, channels))
        self.register_buffer("shift", torch.linspace(-1, 1, channels))

    def forward(self, x):
        return x * self.factor[:, None, None] + self.shift[:, None, None]


class Locked(nn.BatchNorm2d):
    """A batch norm that stays in eval mode."""

    def train(self, mode: bool = True):
        return super().train(False)


def without_gradient(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels).requires_grad_(False)


@pytest.mark.parametrize("norm", [without_gradient, Locked, Fixed])
@pytest.mark.parametrize("method", pruning.PRUNE)
def test_a_frozen_batch_norm_stays_as_it_is(norm, method):
    """Its statistics, and where they don't learn its factors, are the same after fine-tuning; channels of one that is
    no BatchNorm can't be removed, which is said with what can be done."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 16, 3), norm(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, CLASSES)).eval()
    inputs, targets = learning()
    if (norm, method) == (Fixed, "channels"):
        with pytest.raises(UserError, match=r"can't be removed .*; use unstructured or 2:4"):
            pruning.channels(module, inputs[:1], 0.5)
        return
    pruning.PRUNE[method](module, inputs[:1], 0.5)
    frozen = {
        name: values for name, values in module[1].state_dict().items() if norm is not Locked or "running" in name
    }
    before = {name: values.clone() for name, values in frozen.items()}
    pruning.fine_tune(module, inputs, targets, 1)
    assert before and all(torch.equal(values, before[name]) for name, values in frozen.items())
    assert not module.training


def test_a_module_that_learns_nothing_is_refused(model):
    """Without a parameter that learns there is nothing to fine-tune."""
    frozen = replace(model, name="frozen", build=lambda: Skipping().requires_grad_(False))
    with pytest.raises(UserError, match=r"no parameter with requires_grad.*; set some"):
        pruning.pruned(frozen, "none", 0.0, 1)


@pytest.mark.parametrize("method", pruning.PRUNE)
def test_tensorrt_takes_pruned_and_quantized_files(model, made, method):
    """A pruned model in INT8 is parsed and built like any other Q/DQ file."""
    assert refusal(static_int8(model, source=made(method)).path, pictures=(1, 8, 8)) == ""
