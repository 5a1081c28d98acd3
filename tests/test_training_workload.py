"""The built-in models learn and are counted right; your own models and data are taken or refused in a sentence."""

import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

from kit.errors import UserError
from kit.techniques.training import parity, workload
from kit.techniques.training.workload import Dataset, Task

TASKS = {"mnist": Task(), "text": Task("language_model", "text", batch=16)}


@pytest.fixture(scope="module", params=TASKS)
def task(request):
    return TASKS[request.param]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write a module of the user's own and return the address of its `build`."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, code: str) -> str:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        monkeypatch.delitem(sys.modules, name, raising=False)
        return f"{name}:build"

    return write


@pytest.mark.parametrize("name, steps, ends_below", [("mnist", 40, 1.0), ("text", 8, 4.7)])
def test_the_models_learn(name, steps, ends_below):
    """Plain SGD brings the loss from that of a guess far down, within seconds."""
    found = parity.losses(Task(TASKS[name].model, name, batch=64, check_steps=steps))
    assert found[0] == pytest.approx(np.log(10 if name == "mnist" else 256), rel=0.03)
    assert found[-1] < ends_below


def test_the_seed_alone_gives_the_weights(task):
    """The same task gives the same weights and batches, and every parameter gets a gradient in the first step."""
    one, again = task.build(), task.build()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    dataset = task.dataset()
    (inputs, targets), *_ = task.batches(dataset)
    assert torch.equal(inputs, task.batches(dataset)[0][0])
    task.loss(one)(one(inputs), targets).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in one.parameters())


def test_ranks_share_out_each_batch(task):
    """The shares of all ranks together are the batch, each sample once; what can't be divided is refused."""
    dataset = task.dataset()
    whole, shares = task.batches(dataset), [task.batches(dataset, (rank, 4)) for rank in range(4)]
    assert len(whole) == 20
    assert torch.equal(torch.cat([share[3][0] for share in shares]), whole[3][0])
    with pytest.raises(UserError, match="can't be divided among 3 ranks"):
        task.batches(dataset, (0, 3))
    with pytest.raises(UserError, match="is above the"):
        Task(task.model, task.data, batch=10**6).batches(dataset)


def test_the_language_model_sees_no_later_byte():
    """A byte changed at the end leaves the logits of all earlier positions."""
    model, inputs = TASKS["text"].build(), TASKS["text"].dataset().inputs[:2]
    changed = inputs.clone()
    changed[:, -1] += 1
    before, after = model(inputs), model(changed)
    assert torch.equal(before[:, :-1], after[:, :-1]) and not torch.equal(before[:, -1], after[:, -1])


def test_operations_are_those_of_the_arithmetic():
    """Twice the weights per token forward, twice that backward, plus attention."""
    dim, layers, batch, length = 32, 2, 3, 64
    model, dataset = workload.language_model(dim, layers), TASKS["text"].dataset()
    inputs, targets = dataset.inputs, dataset.targets
    weights, attention = layers * 12 * dim**2 + 256 * dim, layers * batch * 2 * length**2 * dim
    found = workload.flops(model, workload.cross_entropy, inputs[:batch], targets[:batch])
    assert found == 3 * 2 * (weights * batch * length + attention)


def test_text_is_the_next_byte_of_real_english():
    """Each target is the byte that follows its input."""
    dataset = TASKS["text"].dataset()
    inputs, targets = dataset.inputs, dataset.targets
    assert torch.equal(inputs[1:, 0], targets[:-1, -1]) and b" statement" in bytes(inputs[:100].flatten().tolist())


class Unused(nn.Linear):
    """A model with a parameter that its loss does not depend on."""

    def __init__(self):
        super().__init__(3, 2)
        self.spare = nn.Parameter(torch.ones(1))


def rows(inputs=3, targets=(0, 1, 0, 1)):
    return lambda: (torch.randn(len(targets), inputs), torch.tensor(targets))


@pytest.mark.parametrize(
    "model, data, reason",
    [
        (nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.1)), rows(), r"1 \(Dropout\) drops 0.1 .* set it to 0"),
        (nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), rows(), r"1 \(BatchNorm1d\) depends on .* use LayerNorm"),
        (nn.Sequential(nn.ReLU()), rows(), "no parameter"),
        ("a string", rows(), "type str; let its function return a torch.nn.Module"),
        (nn.Linear(4, 2), rows(), r"can't be trained on inputs \[4, 3\] \(torch.float32\) and .*RuntimeError"),
        (nn.Linear(3, 2), rows(targets=(0, 1, 2)), "a target is 2, and the model has 2 classes"),
        (nn.Linear(3, 2), rows(targets=((0, 1), (1, 0))), r"targets \[2, 2\] \(torch.int64\).*give logits"),
        (nn.Linear(3, 2), rows(targets=(0.5, 1.0)), r"for integers \[...\], or the model a method loss"),
        (nn.LSTM(3, 2), rows(), "give logits"),
        (Unused(), rows(), "spare gets no gradient"),
    ],
)
def test_models_that_can_not_be_trained_alike_are_refused(model, data, reason):
    """Before any rank trains, with the remedy in the sentence."""
    with pytest.raises(UserError, match=reason):
        Task(lambda: model, data, batch=2).dataset()


def frozen():
    """Layers by number and a BatchNorm that no longer learns: both can be trained alike."""
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2).eval(), nn.Dropout(0.0))
    model[1].requires_grad_(False)
    model.layers = 2
    return model


def test_unusual_models_are_taken():
    """A frozen BatchNorm, a dropout of nothing, an attribute `layers` that is a number, a loss of its own."""
    assert Task(frozen, rows(), batch=2).dataset().item == "samples"

    def regression():
        model = nn.Linear(3, 1)
        model.loss = lambda found, targets: (found[:, 0] - targets).square().mean()
        return model

    assert len(parity.losses(Task(regression, rows(targets=(0.5, 1.5)), batch=2))) == 20


def test_an_address_and_a_name():
    """A model and data are named, or found at an address; a wrong one says what to do."""
    with pytest.raises(UserError, match=r"data='mnst' is unknown; did you mean 'mnist'"):
        Task(data="mnst").dataset()
    with pytest.raises(UserError, match="no module no_such"):
        Task(model="no_such:build").build()
    for wrong in (dict(batch=0), dict(check_steps=1), dict(lr=0.0)):
        with pytest.raises(UserError, match=f"{next(iter(wrong))}="):
            Task(**wrong)


def test_own_arrays_become_tensors(own):
    """Arrays of any width and byte order, of (train, test) halves the first, and a Dataset become float32 and int64."""
    address = own(
        "mine_arrays",
        """
        import numpy as np
        def build():
            inputs = np.asfortranarray(np.ones((5, 3), "f4")); inputs.flags.writeable = False
            return (inputs[::-1], np.zeros(5, ">i4")), (inputs[:2], np.zeros(2))
        """,
    )
    dataset = Task(lambda: nn.Linear(3, 2), address, batch=2).dataset()
    assert (dataset.inputs.dtype, dataset.targets.dtype, len(dataset.inputs)) == (torch.float32, torch.int64, 5)
    notes = torch.zeros(4, 8, dtype=torch.int32)
    songs = Task(lambda: nn.Embedding(1, 2), lambda: Dataset(notes, notes, "notes", 8), batch=2).dataset()
    assert (songs.item, songs.items_per_sample, songs.inputs.dtype) == ("notes", 8, torch.int64)


X, Y = np.ones((4, 3), np.float32), np.zeros(4, np.int64)


@pytest.mark.parametrize(
    "found, reason",
    [
        (None, r"returned NoneType; let it return \(inputs, targets\)"),
        ((X, Y, Y), "returned tuple; let it return"),
        ((X, Y[:3]), "has 4 inputs and 3 targets"),
        ((X[:0], Y[:0]), r"inputs have shape \[0, 3\]; give at least one"),
        ((X * np.nan, Y), "12 of 12 values in inputs are NaN or infinite; drop or fill"),
        ((X, np.array(list("abcd"))), "targets are of type <U1; give a torch tensor"),
    ],
)
def test_own_data_that_can_not_be_trained_on_is_refused(found, reason):
    """Each mistake names the part, and what to do."""
    with pytest.raises(UserError, match=reason):
        Task(lambda: nn.Linear(3, 2), lambda: found, batch=2).dataset()
