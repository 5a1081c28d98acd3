"""Finds notebooks and reads their source as plain JSON, without what an earlier execution left in it."""

import hashlib
import json
import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import kit
from kit.errors import UserError
from kit.record.store import clean


@dataclass(frozen=True)
class Notebook:
    """A notebook's source.

    name: file name without its ending. document: the notebook's JSON, with neither outputs nor injected cells.
    """

    name: str
    path: Path
    document: dict[str, Any]

    @property
    def title(self) -> str:
        """The first heading, or nothing."""
        lines = (line for cell in self.document["cells"] if cell["cell_type"] == "markdown" for line in lines_of(cell))
        return next((line.lstrip("# ").strip() for line in lines if line.startswith("#")), "")

    @property
    def digest(self) -> str:
        """Hash of what is executed: the code cells and their tags; prose may change without a new run."""
        code = [(source(cell), tags(cell)) for cell in self.document["cells"] if cell["cell_type"] == "code"]
        return hashlib.sha256(json.dumps(code).encode()).hexdigest()

    @property
    def home(self) -> Path:
        """The working directory of its runs: the folder above `notebooks/`, else its git checkout, else its folder."""
        folder = self.path.parent
        if folder.name == "notebooks":
            return folder.parent
        return next((above for above in (folder, *folder.parents) if (above / ".git").exists()), folder)


def source(cell: dict[str, Any]) -> str:
    """Return a cell's text, which a notebook may hold as one string or as a list of lines."""
    return "".join(cell.get("source", ""))


def lines_of(cell: dict[str, Any]) -> list[str]:
    """Return a cell's lines."""
    return source(cell).splitlines()


def tags(cell: dict[str, Any]) -> list[str]:
    """Return a cell's tags."""
    return cell.get("metadata", {}).get("tags", [])


def project() -> Path | None:
    """Return the folder that holds `notebooks/`: the working directory or one above it, else the kit's checkout.

    Unlike `places.project`, where runs and caches are kept: the kit's own notebooks can be run from any folder."""
    here = Path.cwd()
    places = (here, *here.parents, Path(kit.__file__).parents[1])
    return next((folder for folder in places if any((folder / "notebooks").glob("*.ipynb"))), None)


def known() -> dict[str, Path]:
    """Return the project's notebooks, by name, in order."""
    folder = project()
    return {path.stem: path for path in sorted((folder / "notebooks").glob("*.ipynb"))} if folder else {}


def find(name: str, beside: Path | None = None) -> Path:
    """Return the path of a notebook: a name in `notebooks/` (`01_dataframes`, `01`, `dataframes`), or a path, which
    may be relative to the folder `beside`. Raise `UserError` with the nearest name if there is none."""
    for path in (Path(name), *([beside / name] if beside else [])):
        if path.suffix == ".ipynb" and path.is_file():
            return path.resolve()
    names, wanted = known(), name.removesuffix(".ipynb")
    if wanted in names:
        return names[wanted].resolve()
    matches = [stem for stem in names if wanted in (stem.partition("_")[0], stem.partition("_")[2])]
    if len(matches) == 1:
        return names[matches[0]].resolve()
    if matches:
        raise UserError(f"{name} may mean {' or '.join(matches)}: say which")
    raise UserError(f"there is no notebook {name}{_nearest(name, names)}")


def _nearest(name: str, names: dict[str, Path]) -> str:
    if os.sep in name or name.endswith(".ipynb"):
        return " at that path"
    close = get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"; did you mean {close[0]}?" if close else "."
    return f"{hint} There are: {', '.join(names)}" if names else ", and no notebooks/ folder here or above"


def read(path: Path) -> Notebook:
    """Read a notebook's source; raise `UserError` if it is not a Python notebook of format 4."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path.name} could not be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path.name} is not a notebook: it is not whole JSON ({error})") from None
    if not _is_whole(document):
        raise UserError(f"{path.name} is not a notebook of format 4: open it in JupyterLab and save it again")
    language = document.get("metadata", {}).get("kernelspec", {}).get("language", "python")
    if language != "python":
        raise UserError(f"{path.name} is a notebook in {language}; the kit executes Python notebooks")
    return Notebook(path.stem, path, _bare(document))


def _is_whole(document: Any) -> bool:
    """Return whether a document has the parts of a notebook that the kit relies on."""
    if not isinstance(document, dict) or document.get("nbformat") != 4:
        return False
    cells = document.get("cells")
    return isinstance(cells, list) and all(isinstance(cell, dict) and "cell_type" in cell for cell in cells)


def _bare(document: dict[str, Any]) -> dict[str, Any]:
    """Drop what an execution left: injected values would silently win over the defaults that stand in the notebook."""
    cells = [cell for cell in document["cells"] if "injected-parameters" not in tags(cell)]
    fresh = [cell | {"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else cell for cell in cells]
    return document | {"cells": fresh}


def tidy(path: Path, notebook: Notebook) -> None:
    """Clean an executed notebook: no secrets, no home folder, and nothing of papermill's, which calls the cells of a
    kernel that died completed. Where its writing was cut short, the source takes its place."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        document = notebook.document
    for part in (document, *document["cells"]):
        part.get("metadata", {}).pop("papermill", None)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(clean(document), indent=1, ensure_ascii=False), encoding="utf-8")
    partial.replace(path)
