"""The built-in models: samples for magika (a classifier of file types, Apache-2.0), and a small net for MNIST's digits.

The samples are files of installed packages. Each line of `magika_files.tsv`: a pinned package, a label of the model,
and files by the first ten characters of the SHA-256 in the package's own RECORD. `benchmarks/labelled_files.py` makes
it out of files that are alike in the wheels of several platforms; a label is what the file's extension says.
"""

import base64
import hashlib
import json
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kit.common.datasets import Half, magika_folder, magika_input, mnist
from kit.errors import UserError
from kit.techniques.quantization.workload import cached_folder

if TYPE_CHECKING:
    from torch import nn

# magika ---------------------------------------------------------------------------------------------------------------

MANIFEST = Path(__file__).with_name("magika_files.tsv")
HASH_CHARS = 10  # of 43: base64, 6 bits a character
LEAST_FILES = 500


class Entry(NamedTuple):
    """Files of one type in one package; hashes: how their SHA-256 begin, in URL-safe base64."""

    package: str
    version: str
    label: str
    hashes: tuple[str, ...]


def manifest() -> list[Entry]:
    """Read the manifest."""
    rows = [line.split("\t") for line in MANIFEST.read_text(encoding="ascii").splitlines()]
    return [Entry(*name.split("=="), label, tuple(hashes.split())) for name, label, hashes in rows]


def magika_samples(entries: list[Entry]) -> tuple[Half, str]:
    """Return (features int32 [N, 2048], targets int64 [N]) of the manifest's files, and a note on their number.

    A file that is not installed, or has another content, is left out; the note names its package's version. Raise
    `UserError` if fewer than `LEAST_FILES` are left.
    """
    labels = json.loads((magika_folder() / "config.min.json").read_text())["target_labels_space"]
    files = [(entry, _content(entry.package, hashed)) for entry in entries for hashed in entry.hashes]
    found = [(labels.index(entry.label), content) for entry, content in files if content is not None]
    lack = " ".join(dict.fromkeys(f"{entry.package}=={entry.version}" for entry, content in files if content is None))
    if len(found) < LEAST_FILES:
        raise UserError(
            f"only {len(found)} of the {len(files)} labelled files are installed, and {LEAST_FILES} are needed; "
            f"pip install {lack}"
        )
    targets = np.array([label for label, _ in found], np.int64)
    note = f"{len(found):,} files of {len(set(targets.tolist()))} types from pinned packages"
    note += f"; {len(files) - len(found):,} more are missing: pip install {lack}" if lack else ""
    return (np.stack([magika_input(content) for _, content in found]), targets), note


def hash_of(content: bytes) -> str:
    """Return a file's hash as the manifest has it, and as a RECORD's begins."""
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode()[:HASH_CHARS]


def _content(package: str, hashed: str) -> bytes | None:
    try:
        content = _files(package)[hashed].read_bytes()
    except (KeyError, OSError):
        return None
    return content if hash_of(content) == hashed else None


@cache
def _files(package: str) -> dict[str, Path]:
    """Return the paths of a package's installed files by the hashes in its RECORD."""
    files = [file for found in distributions(name=package) for file in found.files or [] if file.hash]
    return {file.hash.value[:HASH_CHARS]: Path(file.locate()) for file in files}


# Digits ---------------------------------------------------------------------------------------------------------------

WIDTHS, EPOCHS, RATE = (32, 48, 96, 128), 4, 0.05


def digits() -> "nn.Module":
    """Return the network in eval mode, trained once within seconds: images [batch, 1, 28, 28] → logits [batch, 10].

    Four convolutions of 3 × 3 with batch norms, and a linear layer: 16 million multiplications per image.
    """
    import torch

    from kit.techniques.quantization.pruning import fine_tune

    def train(folder: Path) -> None:
        with torch.random.fork_rng([]):  # the caller's own random numbers stay as they were
            torch.manual_seed(0)
            net = _digits_net().to(memory_format=torch.channels_last)  # the faster one to train in, by a fifth
        fine_tune(net, *map(torch.from_numpy, mnist()[0]), EPOCHS, RATE)
        torch.save(net.state_dict(), folder / "net.pt")

    module = _digits_net()
    folder = cached_folder("digits-net", (WIDTHS, EPOCHS, RATE), train)
    module.load_state_dict(torch.load(folder / "net.pt", weights_only=True))
    return module.eval()


def _digits_net() -> "nn.Module":
    from torch import nn

    parts: list[nn.Module] = []
    for width, channels, pooled in zip((1, *WIDTHS), WIDTHS, (True, False, True, True), strict=False):
        parts += [nn.Conv2d(width, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
        parts += [nn.MaxPool2d(2)] if pooled else []
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(WIDTHS[-1] * 3 * 3, 10))
