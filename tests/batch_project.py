"""Makes small projects with tiny notebooks, and runs the real `kit` in them, as a person would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

KIT = [sys.executable, "-m", "kit.cli"]


def write_notebook(path: Path, *cells: str, parameters: str = "", title: str = "", **metadata) -> Path:
    """Write a notebook of code cells, with a title and a cell tagged `parameters` before them where they are given."""
    made = [_cell("markdown", f"# {title}\n\nWords.")] if title else []
    made += [_cell("code", parameters, "parameters")] if parameters else []
    made += [_cell("code", cell) for cell in cells]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": metadata, "cells": made}))
    return path


def _cell(kind: str, text: str, *tags: str) -> dict:
    code = {"outputs": [], "execution_count": None} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {"tags": list(tags)}, "source": text.splitlines(keepends=True), **code}


def environment(home: Path) -> dict[str, str]:
    """Return an environment with a home and a machine lock of its own: no other batch here is waited for. Peaks are
    not measured: they have tests of their own."""
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    lock = str(home / "kit.lock")
    return os.environ | {"HOME": str(home), "TMPDIR": str(home / "tmp"), "KIT_PROBE_S": "0", "KIT_LOCK": lock}


def kit(project: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run `kit` in a project, to its end."""
    own = environment(project / "home")
    return subprocess.run([*KIT, *arguments], cwd=project, env=own, capture_output=True, text=True, timeout=300)


def start(project: Path, *arguments: str) -> subprocess.Popen:
    """Start `kit` in a project."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*KIT, *arguments], cwd=project, env=environment(project / "home"), **pipes)


def statuses(project: Path, notebook: str, runs: str = "runs") -> list[dict]:
    """Return the status of each attempt at a notebook, oldest first, each with its folder."""
    folders = sorted((project / runs / notebook).iterdir(), key=lambda folder: folder.stat().st_ctime_ns)
    return [json.loads((folder / "status.json").read_text()) | {"folder": folder} for folder in folders]


def outputs(folder: Path) -> str:
    """Return all that the executed notebook of a run printed."""
    cells = json.loads((folder / "notebook.ipynb").read_text())["cells"]
    texts = [output.get("text", "") for cell in cells for output in cell.get("outputs", [])]
    return "".join("".join(text) for text in texts)


def alive(pid: int) -> bool:
    """Return whether a process still does something."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
