"""Labelled files for magika: what lies in the wheels that an install of the kit brings, its type told by its name.

`files.tsv` pins them: distribution, path, first 16 digits of the content's SHA-256, label. A label is what the file's
extension says, and only extensions that mean one type are in `TYPES`; the model is never asked.
`python -m kit.techniques.quantization.subjects.files` writes the manifest anew from what is installed here.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from kit.errors import UserError

MANIFEST = Path(__file__).with_name("files.tsv")
KIT = "ml-scaling-kit"

TYPES = {
    "bat": "batch",
    "bz2": "bzip",
    "c": "c",
    "cc": "cpp",
    "cmake": "cmake",
    "cmd": "batch",
    "cpp": "cpp",
    "css": "css",
    "csv": "csv",
    "exe": "pebin",
    "f": "fortran",
    "f90": "fortran",
    "f95": "fortran",
    "gif": "gif",
    "gz": "gzip",
    "hpp": "cpp",
    "html": "html",
    "ico": "ico",
    "ini": "ini",
    "ipynb": "ipynb",
    "j2": "jinja",
    "jinja": "jinja",
    "jpeg": "jpeg",
    "jpg": "jpeg",
    "js": "javascript",
    "json": "json",
    "lua": "lua",
    "md": "markdown",
    "mjs": "javascript",
    "npy": "npy",
    "npz": "npz",
    "parquet": "parquet",
    "pdf": "pdf",
    "pem": "pem",
    "png": "png",
    "po": "po",
    "proto": "proto",
    "py": "python",
    "pyi": "python",
    "rst": "rst",
    "sh": "shell",
    "so": "elf",
    "sql": "sql",
    "sqlite": "sqlite",
    "svg": "svg",
    "toml": "toml",
    "ttf": "ttf",
    "wav": "wav",
    "whl": "zip",
    "woff": "woff",
    "woff2": "woff2",
    "xml": "xml",
    "xz": "xz",
    "yaml": "yaml",
    "yml": "yaml",
    "zip": "zip",
}
"""Extension → the model's label, where it means one type. Not here: .txt, .h (C or C++), .pkl, .in, .cfg, .dat, …"""

SIGNATURES = {
    "bzip": b"BZh",
    "elf": b"\x7fELF",
    "gzip": b"\x1f\x8b",
    "ico": b"\x00\x00\x01\x00",
    "jpeg": b"\xff\xd8",
    "npy": b"\x93NUMPY",
    "npz": b"PK",
    "parquet": b"PAR1",
    "pdf": b"%PDF",
    "pebin": b"MZ",
    "png": b"\x89PNG",
    "woff": b"wOFF",
    "woff2": b"wOF2",
    "xz": b"\xfd7zXZ",
    "zip": b"PK",
}
"""Label → how every file of it begins, by its format. A file whose name claims otherwise has no certain label."""

MOST_OF_A_TYPE = 90
LEAST_BYTES, MOST_BYTES = 64, 2 * 2**20  # less says too little; more takes long to read

BEGINNING, END, BLOCK, PADDING = 1024, 1024, 4096, 256  # of magika's standard_v3_3


@dataclass(frozen=True)
class Entry:
    """A line of the manifest: a file of an installed distribution, and its type."""

    distribution: str
    path: str
    sha256: str
    label: str


@dataclass(frozen=True)
class Samples:
    """What the model sees of the files.

    features: int32 [N, 2048], no two rows alike. targets: int64 [N], numbers of the model's labels. of: how many files
    the manifest names. changed: how many have another content here. missing: how many are not here.
    """

    features: np.ndarray
    targets: np.ndarray
    of: int
    changed: int
    missing: int

    @property
    def note(self) -> str:
        """Where the files come from, and whether they are the pinned ones."""
        named = f"{len(self.targets):,} files of {len(set(self.targets.tolist()))} types from the installed wheels"
        if not self.changed + self.missing:
            return f"{named}, all as in the manifest"
        return (
            f"{named}; {self.changed + self.missing:,} of {self.of:,} are not those of the manifest "
            f"({self.changed:,} changed, {self.missing:,} missing)"
        )


def manifest(path: Path = MANIFEST) -> list[Entry]:
    """Read the manifest."""
    return [Entry(*line.split("\t")) for line in path.read_text(encoding="utf-8").splitlines()]


def samples(entries: Iterable[Entry] | None = None, least: int = 200) -> Samples:
    """Return the manifest's files as they are here; one that another version brings is used too, for its label holds.

    Raise `UserError` if fewer than `least` are left.
    """
    entries = manifest() if entries is None else list(entries)
    numbers = {label: number for number, label in enumerate(labels())}
    found, changed = {}, 0
    for entry in entries:
        content = _content(entry)
        if content is not None:
            changed += _sha256(content) != entry.sha256
            found.setdefault(features(content).tobytes(), []).append((entry, numbers[entry.label]))
    here = sum(map(len, found.values()))
    if here < least:
        raise UserError(
            f"only {here} of the {len(entries)} labelled files are installed here, and {least} are needed; install the "
            "kit with its pinned versions: pip install -c constraints.txt ."
        )
    single = {seen: files[0][1] for seen, files in found.items() if len({label for _, label in files}) == 1}
    rows = np.frombuffer(b"".join(single), np.int32).reshape(-1, BEGINNING + END)
    return Samples(rows, np.array(list(single.values()), np.int64), len(entries), changed, len(entries) - here)


def features(content: bytes) -> np.ndarray:
    """Return what magika's model sees of a file: int32 [2048], its first and its last bytes, stripped and padded.

    As magika's own `_extract_features_from_seekable`, which can't be had without its session.
    """
    seen = np.full(BEGINNING + END, PADDING, np.int32)
    beginning = content[:BLOCK].lstrip()[:BEGINNING]
    end = content[-BLOCK:].rstrip()[-END:]
    seen[: len(beginning)] = np.frombuffer(beginning, np.uint8)
    seen[len(seen) - len(end) :] = np.frombuffer(end, np.uint8)
    return seen


def magika_folder() -> Path:
    """Return the folder of magika's model. Raise `UserError` if magika is not installed."""
    spec = find_spec("magika")  # the package itself would start a command line's worth of imports
    folder = Path(spec.origin).parent / "models/standard_v3_3" if spec and spec.origin else None
    if folder is None or not (folder / "model.onnx").exists():
        raise UserError(
            "the file-type model comes with the package magika, which is not here; pip install magika==1.0.3"
        )
    return folder


@cache
def labels() -> list[str]:
    """Return what the model's outputs stand for."""
    import json

    return json.loads((magika_folder() / "config.min.json").read_text())["target_labels_space"]


def _content(entry: Entry) -> bytes | None:
    try:
        content = Path(str(_distribution(entry.distribution).locate_file(entry.path))).read_bytes()
    except (PackageNotFoundError, OSError):
        return None
    return content if len(content) >= LEAST_BYTES else None


@cache
def _distribution(name: str) -> Distribution:
    return distribution(name)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _pinned() -> list[Entry]:
    """Return up to `MOST_OF_A_TYPE` files of each type, from as many distributions as have some.

    Each distribution in turn gives the file whose content has the lowest hash: a choice that is nobody's.
    """
    by_type: dict[str, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for entry in _candidates():
        by_type[entry.label][entry.distribution].append(entry)
    chosen = []
    for groups in by_type.values():
        turns = ((turn, e.sha256, e) for files in groups.values() for turn, e in enumerate(sorted(files, key=_hash)))
        chosen += [entry for *_, entry in sorted(turns, key=lambda one: one[:2])[:MOST_OF_A_TYPE]]
    return sorted(chosen, key=lambda entry: (entry.label, entry.distribution, entry.path))


def _hash(entry: Entry) -> str:
    return entry.sha256


def _candidates() -> Iterator[Entry]:
    """Yield every file with a certain label, no two of which look alike to the model."""
    seen = set()
    for name in sorted(_installed()):
        for path in sorted(distribution(name).files or [], key=str):
            label = TYPES.get(path.suffix.lower().removeprefix("."))
            file = Path(str(path.locate()))
            if label is None or not _certain(path.parts, label) or not LEAST_BYTES <= file.stat().st_size <= MOST_BYTES:
                continue
            content = file.read_bytes()
            looks = features(content).tobytes()
            if looks not in seen and content.startswith(SIGNATURES.get(label, b"")):
                seen.add(looks)
                yield Entry(name, str(path), _sha256(content), label)


def _certain(parts: tuple[str, ...], label: str) -> bool:
    """Return whether a file at that path is what its name says, and the same wherever it is installed.

    An installer writes records and sets the first line of scripts; what templates make is HTML, but not they.
    """
    installed = parts[0].endswith(".dist-info") or (parts[0] == ".." and "bin" in parts)
    return not installed and not (label == "html" and "templates" in parts)


def _installed() -> set[str]:
    """Return the distributions that an install of the kit with its tests brings, magika's own aside."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found, todo = set(), [(KIT, ""), (KIT, "test")]
    while todo:
        name, extra = todo.pop()
        found.add((name, extra))
        for requirement in map(Requirement, distribution(name).requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                wanted = {(canonicalize_name(requirement.name), extra) for extra in ("", *requirement.extras)}
                todo += wanted - found
    return {name for name, _ in found} - {KIT, "magika"}


def _write() -> None:
    entries = _pinned()
    lines = ("\t".join((entry.distribution, entry.path, entry.sha256, entry.label)) for entry in entries)
    MANIFEST.write_text("\n".join(lines) + "\n", encoding="utf-8")
    counts = Counter(entry.label for entry in entries)
    print(f"{len(entries)} files of {len(counts)} types: {dict(counts.most_common())}")


if __name__ == "__main__":
    _write()
