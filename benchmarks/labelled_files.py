"""Choose the labelled files of magika's samples and write their manifest, labelled_files.tsv.

    python benchmarks/labelled_files.py WHEELS

WHEELS: a folder with wheels of the same versions for other platforms and Pythons (`pip download --no-deps --platform`);
only files that all of them have in common are chosen. A label is what a file's extension says, and only extensions that
mean one type count. Of each type, the files whose content has the lowest hash are taken, each package in turn.
"""

import csv
import io
import re
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from importlib.metadata import PackagePath, distribution, version
from pathlib import Path

from kit.common import labelled_files as files

SOURCES = "joblib matplotlib mlxtend nbconvert numpy onnx papermill scikit-learn scipy torch".split()
"""Packages that constraints.txt pins and that this technique needs, or that its own requirements bring."""

TYPES = {
    "bz2": "bzip", "c": "c", "cc": "cpp", "cmake": "cmake", "cpp": "cpp", "css": "css", "csv": "csv", "f": "fortran",
    "f90": "fortran", "f95": "fortran", "gif": "gif", "gz": "gzip", "hpp": "cpp", "html": "html", "ini": "ini",
    "ipynb": "ipynb", "j2": "jinja", "jinja": "jinja", "jpeg": "jpeg", "jpg": "jpeg", "js": "javascript",
    "json": "json", "lua": "lua", "md": "markdown", "npy": "npy", "npz": "npz", "onnx": "onnx", "pdf": "pdf",
    "png": "png", "proto": "proto", "py": "python", "pyi": "python", "rst": "rst", "sh": "shell", "svg": "svg",
    "toml": "toml", "ttf": "ttf", "wav": "wav", "xml": "xml", "xz": "xz", "yaml": "yaml", "yml": "yaml",
}  # fmt: skip
"""Extension → the model's label, where it means one type. Not here: .txt, .h (C or C++), .pkl, .in, .cfg, .dat, …"""

SIGNATURES = {
    "bzip": b"BZh", "gzip": b"\x1f\x8b", "jpeg": b"\xff\xd8", "npy": b"\x93NUMPY", "npz": b"PK", "pdf": b"%PDF",
    "png": b"\x89PNG", "xz": b"\xfd7zXZ",
}  # fmt: skip
"""Label → how every file of it begins, by its format. A file whose name claims otherwise has no certain label."""

MOST = {"python": 460}
MOST_OF_A_TYPE = 150
LEAST_BYTES, MOST_BYTES = 64, 2 * 2**20  # less shows too little; more takes long to read
ON_A_LINE = 10


def main(wheels: Path) -> None:
    records = list(_records(wheels))
    by_type: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    seen: set[bytes] = set()
    for name in SOURCES:
        common = [one for distributed, one in records if distributed == name]
        for path in sorted(distribution(name).files or [], key=str):
            label = TYPES.get(path.suffix.lower().removeprefix("."))
            if label and _certain(path, label) and all(one.get(str(path)) == path.hash.value for one in common):
                content = Path(str(path.locate())).read_bytes()
                looks = files.magika_input(content).tobytes()
                fits = LEAST_BYTES <= len(content) <= MOST_BYTES and content.startswith(SIGNATURES.get(label, b""))
                if fits and looks not in seen:
                    seen.add(looks)
                    by_type[label][name].append(files.hash_of(content))
    chosen = {label: _in_turn(groups, MOST.get(label, MOST_OF_A_TYPE)) for label, groups in sorted(by_type.items())}
    files.MANIFEST.write_text("".join(_lines(chosen)), encoding="ascii")
    print(f"{sum(map(len, chosen.values()))} files:", Counter({label: len(one) for label, one in chosen.items()}))


def _records(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the name of each wheel's distribution, and its files' hashes by their paths."""
    for wheel in folder.rglob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            record = next(name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))
            rows = csv.reader(io.StringIO(archive.read(record).decode()))
            name = re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower()
            yield name, {path: hashed.removeprefix("sha256=") for path, hashed, _ in rows}


def _certain(path: PackagePath, label: str) -> bool:
    """Return whether a file is what its name says, and is installed as it is: templates of HTML are not HTML."""
    installers = path.parts[0].endswith(".dist-info") or (path.parts[0] == ".." and "bin" in path.parts)
    return path.hash is not None and not installers and not (label == "html" and "templates" in path.parts)


def _in_turn(groups: dict[str, list[str]], most: int) -> list[tuple[str, str]]:
    """Return (distribution, hash) of at most so many files: each distribution in turn gives its lowest hash."""
    turns = ((turn, hashed, name) for name, own in groups.items() for turn, hashed in enumerate(sorted(own)))
    return [(name, hashed) for _, hashed, name in sorted(turns)[:most]]


def _lines(chosen: dict[str, list[tuple[str, str]]]) -> Iterator[str]:
    for name in SOURCES:
        pinned = version(name).partition("+")[0]
        for label, entries in chosen.items():
            own = [hashed for one, hashed in entries if one == name]
            for start in range(0, len(own), ON_A_LINE):
                yield f"{name}=={pinned}\t{label}\t{' '.join(own[start : start + ON_A_LINE])}\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
