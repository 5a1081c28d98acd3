"""A small convolutional net for pictures of 28 × 28, trained here within seconds and kept: the model that is pruned."""

import os
import pickle
import zipfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit.errors import UserError
from kit.techniques.training.data import fashion_mnist, mnist

Pair = tuple[Tensor, Tensor]
WIDTHS = 32, 48, 96, 128
EPOCHS = {"digits": 4, "fashion": 2}
MOST = 12_000  # pictures of clothes that are trained on: all 60,000 would take minutes on two cores
RECIPE = "SGD 0.05, batches of 64, labels smoothed by 0.1, seed 0"


def net() -> nn.Sequential:
    """Return the net with weights yet to learn: float pictures [batch, 1, 28, 28] → logits [batch, 10].

    Four convolutions of 3 × 3 with batch norms, and a linear layer: 33 million multiplications a picture.
    """
    parts: list[nn.Module] = []
    for width, channels, pooled in zip((1, *WIDTHS), WIDTHS, (True, False, True, True), strict=False):
        parts += [nn.Conv2d(width, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
        parts += [nn.MaxPool2d(2)] if pooled else []
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(WIDTHS[-1] * 3 * 3, 10))


def dataset(name: str) -> tuple[Pair, Pair]:
    """Return ((inputs, targets), (test inputs, test targets)) of "digits" or "fashion", as `training.data` has them.

    Of the 60,000 pictures of clothes the first 12,000 are trained on; all 10,000 of the test half are kept. Raise
    `UserError` for another name, or where the data is not on this machine.
    """
    if name not in EPOCHS:
        raise UserError(f"no pictures are called {name!r}; there are {', '.join(EPOCHS)}")
    found = mnist() if name == "digits" else fashion_mnist()
    return (found.train[0][:MOST], found.train[1][:MOST]), found.test


def learning(name: str) -> tuple[Pair, Pair]:
    """Return ((inputs, targets), (validation inputs, validation targets)), out of what `dataset` has to train on.

    The validation, the last eighth, is for choices; neither `trained` nor any fine-tuning may learn from it.
    """
    (inputs, targets), _ = dataset(name)
    cut = len(inputs) * 7 // 8
    return (inputs[:cut], targets[:cut]), (inputs[cut:], targets[cut:])


def trained(name: str, folder: Path) -> Path:
    """Train the net on "digits" or "fashion" and return the file with its weights, `folder`/weights.pt.

    A file of the same recipe that lies there whole is returned as it is. It learns from the first part of `learning`
    alone.
    """
    path, made = folder / "weights.pt", f"{name}, {WIDTHS}, {EPOCHS.get(name)} epochs, {RECIPE}"
    if _read(path).get("made") != made:
        (inputs, targets), _ = learning(name)
        weights = _train(inputs, targets, EPOCHS[name]).state_dict()
        save(path, {"made": made, "weights": weights})
    return path


def build(folder: Path) -> nn.Module:
    """Return the net that `trained` left in `folder`, in eval mode. Raise `UserError` if none is there."""
    found = _read(folder / "weights.pt")
    if not found:
        raise UserError(f"{folder} holds no weights.pt that can be read; call trained(name, folder) first")
    module = net()
    module.load_state_dict(found["weights"])
    return module.eval()


def save(path: Path, content: dict) -> None:
    """Write tensors and plain values for `torch.load(path, weights_only=True)`; the file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(content, part)
    part.replace(path)


def _read(path: Path) -> dict:
    try:
        return torch.load(path, weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile):
        return {}


def _train(inputs: Tensor, targets: Tensor, epochs: int) -> nn.Module:
    with torch.random.fork_rng([]):  # the caller's own random numbers stay as they were
        torch.manual_seed(0)
        module = net().to(memory_format=torch.channels_last)  # the faster one to train in, by a fifth
        optimizer = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
        batches = [batch for _ in range(epochs) for batch in torch.randperm(len(inputs)).split(64)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=len(batches))
    for batch in batches:
        optimizer.zero_grad()
        F.cross_entropy(module(inputs[batch]), targets[batch], label_smoothing=0.1).backward()
        optimizer.step()
        schedule.step()
    return module.eval()
