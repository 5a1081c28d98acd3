"""A convolutional net that learns ten noisy patterns in seconds: real weights, real margins, both kinds of products.
Each pattern comes as itself and as its negative, which no linear model can tell: without its Relus it guesses."""

import functools
from pathlib import Path

import numpy as np

from kit.techniques.quantization.accuracy import accuracy
from kit.techniques.quantization.work import Subject

SHAPE = (1, 12, 12)


def subject(folder: Path) -> Subject:
    """Train the net, export it to `folder`, and return it with samples to calibrate with and to be judged by."""
    import torch

    torch.manual_seed(0)
    (calibration, _), (evaluation, targets), trained = _samples(64, 1), _samples(256, 2), _trained()
    torch.save(trained.state_dict(), folder / "weights.pt")
    example, free = torch.from_numpy(evaluation[:2]), torch.export.Dim("samples")
    torch.onnx.export(
        trained,
        (example,),
        folder / "model.onnx",
        input_names=["image"],
        dynamic_shapes=({0: free},),
        external_data=False,
        verbose=False,
    )
    np.savez(folder / "calibration.npz", image=calibration)
    np.savez(folder / "evaluation.npz", image=evaluation, targets=targets)
    return Subject("small", folder, accuracy, "accuracy", functools.partial(built, folder), item="images")


def built(folder: Path):
    """Return the trained net as a module."""
    import torch

    net = _net()
    net.load_state_dict(torch.load(folder / "weights.pt"))
    return net.eval()


def _net():
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def _samples(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    patterns = np.random.default_rng(0).normal(size=(10, *SHAPE))
    random = np.random.default_rng(seed)
    targets = random.integers(0, 10, number)
    signs = random.choice([-1, 1], (number, 1, 1, 1))
    return (signs * patterns[targets] + random.normal(scale=0.5, size=(number, *SHAPE))).astype(np.float32), targets


def _trained():
    import torch

    net, (images, targets) = _net(), map(torch.from_numpy, _samples(512, 3))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a machine that does other things as well, two wait for each other
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), targets).backward()
        optimizer.step()
    torch.set_num_threads(threads)
    return net.eval()
