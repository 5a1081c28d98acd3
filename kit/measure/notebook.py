"""The notebook that a comparison runs in: its run's folder, its name, its parameters, its outputs."""

import os
import sys
from pathlib import Path
from typing import Any

from kit import project


def run_folder() -> Path | None:
    """Return the folder of the run that executes this notebook, or None where nobody runs it in batch."""
    return Path(os.environ["KIT_RUN"]) if os.environ.get("KIT_RUN") else None


def interactive_folder() -> Path:
    """Return what takes the place of a run's folder where a person runs the notebook."""
    return project.project() / "runs" / "interactive" / (notebook_name() or "outside")


def records_folder() -> Path:
    """Return where records go: into the run's folder, or under `runs/interactive/` of the project."""
    return (run_folder() or interactive_folder()) / "records"


def notebook_name() -> str:
    """Return the name of the notebook that this is: as the runner says, else as Jupyter says, else empty."""
    name = os.environ.get("KIT_NOTEBOOK") or os.environ.get("JPY_SESSION_NAME", "")
    return Path(name).name.removesuffix(".ipynb")


def notebook_parameters() -> dict[str, Any]:
    """Return the notebook's parameters with their values now: the annotated plain names of `__main__`."""
    main = sys.modules["__main__"]
    names = getattr(main, "__annotations__", {}) if "get_ipython" in vars(main) else {}
    plain = str | int | float | bool | list | tuple | dict | None
    return {name: vars(main)[name] for name in names if isinstance(vars(main).get(name, names), plain)}
