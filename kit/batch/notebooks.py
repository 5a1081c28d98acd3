"""Finds notebooks and reads their source as plain JSON, without what an earlier execution left in it."""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import project
from kit.errors import UserError, nearest

_KIT = Path(__file__).parents[1]
SHIPPED = _KIT.parent if (_KIT.parent / "pyproject.toml").is_file() else _KIT / "shipped"
"""Where the kit's own `notebooks/` and `benchmarks/plans/` are: its checkout, or a folder of its wheel."""


@dataclass(frozen=True)
class Notebook:
    """A notebook's source. document: its JSON, with neither outputs nor injected cells."""

    name: str
    path: Path
    document: dict[str, Any]

    @property
    def title(self) -> str:
        """The first heading, or nothing."""
        texts = (cell["source"] for cell in self.document["cells"] if cell["cell_type"] == "markdown")
        lines = (line for text in texts for line in text.splitlines())
        return next((line.lstrip("# ").strip() for line in lines if line.startswith("#")), "")

    @property
    def digest(self) -> str:
        """Hash of what is executed: the code cells and their tags; prose may change without a new run."""
        code = [(cell["source"], tags(cell)) for cell in self.document["cells"] if cell["cell_type"] == "code"]
        return hashlib.sha256(json.dumps(code).encode()).hexdigest()

    @property
    def choices(self) -> dict[str, Any]:
        """By parameter, patterns of the texts allowed, as *.onnx, or [least, most]: metadata's kit: {choices: {…}}."""
        found = _metadata(_metadata(self.document["metadata"], "kit"), "choices")
        return {name: some for name, some in found.items() if isinstance(some, list)}

    @property
    def shipped(self) -> bool:
        """Whether it is one of the kit's own."""
        return os.path.realpath(self.path.parent) == os.path.realpath(SHIPPED / "notebooks")

    @property
    def home(self) -> Path:
        """The working directory of its runs: its folder, as in Jupyter; of the kit's own notebooks the project."""
        return project.project() if self.shipped else self.path.parent


def tags(cell: dict[str, Any]) -> list[str]:
    """Return a cell's tags."""
    found = _metadata(cell).get("tags")
    return found if isinstance(found, list) else []


def _metadata(part: dict[str, Any], name: str = "metadata") -> dict[str, Any]:
    found = part.get(name)
    return found if isinstance(found, dict) else {}


def known() -> dict[str, Path]:
    """Return the notebooks in the project's `notebooks/`, by name, in order, then the kit's own others."""
    return (own := _names(project.project())) | _names(SHIPPED) | own


def _names(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted((folder / "notebooks").glob("*.ipynb"))}


def find(name: str, beside: Path | None = None) -> Path:
    """Return the path of a notebook: a name in `notebooks/` (`01_dataframes`, `01`, `dataframes`), or a path, which
    may be relative to the folder `beside`. Raise `UserError` with the nearest name if there is none."""
    for path in (Path(name), (beside or Path()) / name):
        if path.suffix == ".ipynb" and path.is_file():
            return Path(os.path.abspath(path))  # where a link stands is where Jupyter would run it
    if os.sep in name or name.endswith(".ipynb"):
        raise UserError(f"there is no notebook at {name}")
    for names in (_names(project.project()), _names(SHIPPED)):
        matches = [stem for stem in names if name in (stem.partition("_")[0], stem.partition("_")[2])]
        if name in names or len(matches) == 1:
            return names[name if name in names else matches[0]]
        if matches:
            raise UserError(f"{name} may mean {' or '.join(matches)}: say which")
    raise UserError(f"there is no notebook {name}; {nearest(name, known())}")


def read(path: Path) -> Notebook:
    """Read a notebook's source; raise `UserError` if it is not a Python notebook of format 4."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path.name} could not be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        fault = f"it is not whole JSON ({error}); save it again, or run `git lfs pull`"
        raise UserError(f"{path.name} is not a notebook: {fault}") from None
    cells = document.get("cells") if isinstance(document, dict) and document.get("nbformat") == 4 else None
    if not isinstance(cells, list) or not all(map(_is_cell, cells)):
        raise UserError(f"{path.name} is not a notebook of format 4: open it in JupyterLab and save it again")
    if language := _other_language(_metadata(document)):
        raise UserError(f"{path.name} is a notebook in {language}; save it with a Python kernel if it is Python")
    return Notebook(path.stem, path, _bare(document))


def _is_cell(cell: Any) -> bool:
    """Return whether a part of a notebook is a cell, whose source is one string, a list of lines, or nothing."""
    if not isinstance(cell, dict) or cell.get("cell_type") not in ("code", "markdown", "raw"):
        return False
    source = cell.get("source") or ""
    return all(isinstance(line, str) for line in (source if isinstance(source, list) else [source]))


def _other_language(metadata: dict[str, Any]) -> str:
    """Return the language of a notebook that is not Python's; by the names of its kernel where it names none."""
    spec, info = (_metadata(metadata, name) for name in ("kernelspec", "language_info"))
    language = str(spec.get("language") or info.get("name") or "")
    kernel = f"{spec.get('display_name') or ''} {spec.get('name') or ''}".strip()
    python = re.search(r"py(thon)?(?![a-z])", language or kernel or "python", re.IGNORECASE)
    return "" if python else language or f"the language of the kernel {kernel}"


def _bare(document: dict[str, Any]) -> dict[str, Any]:
    """Drop what an execution left: injected values would silently win over the defaults that stand in the notebook."""
    cells = []
    for cell in document["cells"]:
        cell = cell | {"metadata": _metadata(cell) | {"tags": tags(cell)}, "source": "".join(cell.get("source") or "")}
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
        if "injected-parameters" not in tags(cell):
            cells.append(cell)
    return {"nbformat_minor": 4} | document | {"cells": cells, "metadata": _metadata(document)}
