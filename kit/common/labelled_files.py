"""Labelled files for magika, a classifier of file types (Apache-2.0): files of installed packages.

Each line of `labelled_files.tsv`: a pinned package, a label of the model, and files by the first ten characters of the
SHA-256 in the package's own RECORD. `benchmarks/labelled_files.py` makes it out of files that are equal in the wheels
of several platforms; a label is what the file's extension says.
"""

import base64
import hashlib
import json
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kit.common.datasets import Half, magika_folder, magika_input
from kit.errors import UserError

MANIFEST = Path(__file__).with_name("labelled_files.tsv")
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
