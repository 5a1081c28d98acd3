"""A convolutional net that learns ten noisy patterns in seconds: real weights, real margins, both kinds of products.
Each pattern comes as itself and as its negative, which no linear model can tell: without its Relus it guesses."""

import functools
from pathlib import Path

import numpy as np
import onnx
import pytest

from kit.errors import UserError
from kit.techniques.quantization.checks import accuracy
from kit.techniques.quantization.onnx_files import export
from kit.techniques.quantization.tensorrt_engine import build
from kit.techniques.quantization.workload import Model

SHAPE = (1, 12, 12)


@pytest.fixture(scope="session")
def small_project(tmp_path_factory):
    """One project for all tests of models, whose cache no other project reads or writes."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "notebooks").mkdir()
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Model:
    """The network, trained once."""
    return model(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def model_project(small_project):
    """Work in the shared project, with one thread: threads that wait for each other on a busy machine take minutes."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(small_project)
        patch.syspath_prepend(small_project)
        yield small_project
    torch.set_num_threads(threads)


def model(folder: Path) -> Model:
    """Train the net, export it to `folder`, and return it with samples to calibrate with and to be judged by."""
    import torch

    torch.manual_seed(0)
    (calibration, _), (evaluation, targets), trained = _samples(64, 1), _samples(256, 2), _trained()
    torch.save(trained.state_dict(), folder / "weights.pt")
    onnx.save(export(lambda: trained, {"image": evaluation}), folder / "model.onnx")
    np.savez(folder / "calibration.npz", image=calibration)
    np.savez(folder / "evaluation.npz", image=evaluation, targets=targets)
    return Model("small", folder, accuracy, "accuracy", functools.partial(built, folder))


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


def refusal(path: Path, **shapes: tuple[int, ...]) -> str:
    """Return TensorRT's reason for refusing an ONNX file, or "" if it takes it: TensorRT-RTX parses and builds it,
    without a GPU. shapes: of a sample, by input."""
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX comes for Linux on x86 alone")

    def without_gpu(config) -> None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM89, 0)  # TensorRT-RTX 1.7 doesn't know the H100

    try:
        build(trt, path, shapes, 16, without_gpu)
    except UserError as refused:
        return str(refused)
    return ""
