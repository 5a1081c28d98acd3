"""Notebooks of every shape that people have: one real batch executes what can be executed; the rest is refused."""

import json
from pathlib import Path

import pytest
from batch_project import kit, outputs, statuses

from kit.batch import notebooks
from kit.errors import UserError


def code(source, **more) -> dict:
    return {"cell_type": "code", "source": source, "metadata": {}, "outputs": [], "execution_count": None} | more


def tagged(source, tag: str) -> dict:
    return code(source, metadata={"tags": [tag]})


def written(*cells: dict, **document) -> str:
    return json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": list(cells)} | document)


def kernel(**spec) -> dict:
    return {"metadata": {"kernelspec": spec}}


MEANT = tagged("int('seven')", "raises-exception")
AFTER = code("print('came to its end')")
GROUP = """import asyncio
async def read(shard):
    await asyncio.sleep(0.01 * shard)
    raise EOFError(f"shard {shard}")
async with asyncio.TaskGroup() as readers:
    tasks = [readers.create_task(read(shard)) for shard in (3, 3)]
"""
HANDLER = "get_ipython().set_custom_exc((LookupError,), lambda shell, kind, error, trace, **more: {})"
STOP = "class Halt(Exception):\n    def _render_traceback_(self):\n        return ['stopped']\nraise Halt('no licence')"
SHOWN = "try:\n    [][1]\nexcept IndexError:\n    get_ipython().showtraceback()"

GET_THROUGH = {
    "expected error": written(MEANT, AFTER),
    "error that is only shown": written(code(SHOWN), AFTER),
    "quits early": written(code("import sys\nprint('came to its end')\nsys.exit(0)"), code("1 / 0")),
    "shell and await": written(code("!echo\nimport asyncio\nawait asyncio.sleep(0)"), AFTER),
    "nulls": written(AFTER | {"metadata": None}, code("1", metadata={"tags": None}), metadata=None),
    "other types": written(AFTER | {"metadata": []}, metadata={"kernelspec": "python3", "language_info": 3}),
    "lists of lines": written({"cell_type": "code", "source": ["if True:\n", "    print('came to its end')"]}),
    "no minor version": written(AFTER).replace('"nbformat_minor": 4, ', ""),
    "of the future": written(AFTER | {"id": "a"}, nbformat_minor=77),
    "Größe (Kopie) {1}": written(code("print('came to its end', 'ÄÖ → ∞')")),
    "environment of conda": written(AFTER, **kernel(name="conda-env-ml-py", display_name="ml")),
    "environment of one's own": written(AFTER, **kernel(name="proj-3.12", display_name="Python (proj)")),
    "timed parameters": written(tagged("%%time\nn = 'end'", "parameters"), code("print('came to its', n)")),
}
FAIL = {
    "another error": (written(MEANT, code("open('')")), "FileNotFoundError: [Errno 2] No such file or directory: ''"),
    "an error shown before": (written(code(SHOWN + "\n{}['k']")), "KeyError: 'k'"),
    "no message": (written(code("raise NotImplementedError")), "NotImplementedError"),
    "not installed": (written(code("import no_such")), "ModuleNotFoundError: No module named 'no_such'; the kit's"),
    "unknown magic": (written(code("%sql_of_ours x")), "UsageError: Line magic function `%sql_of_ours` not found."),
    "unknown cell magic": (written(code("%%ours\nx")), "UsageError: Cell magic `%%ours` not found."),
    "handler of one's own": (written(code(HANDLER), code("{}['k']"), AFTER), "KeyError: 'k'"),
    "stops itself": (written(code(STOP), AFTER), "Halt: no licence"),
    "exit status": (written(code("raise SystemExit(4)"), AFTER), "SystemExit: 4"),
    "leaves its kernel": (written(code("import os\nos._exit(0)"), AFTER), "the kernel died (exit status 0)"),
    "asks a person": (written(code("input('name? ')"), AFTER), "StdinNotImplementedError: raw_input was called"),
    "group of errors": (written(code(GROUP), AFTER), "the kernel's own handler failed at cell 1, and never replied"),
}
REFUSED = {
    "R": (written(AFTER, **kernel(name="ir", display_name="R")), "the kernel R ir"),
    "R by display name alone": (written(AFTER, **kernel(display_name="R 4.4")), "the kernel R 4.4"),
    "Julia": (written(AFTER, **kernel(name="julia-1.11")), "the kernel julia-1.11"),
    "Scala": (written(AFTER, **kernel(name="x", language="scala")), "in scala"),
    "Rust": (written(AFTER, metadata={"language_info": {"name": "Rust"}}), "in Rust"),
    "format 3": (json.dumps({"nbformat": 3, "worksheets": []}), "format 4"),
    "cells are an object": (written(cells={}), "format 4"),
    "cells are texts": (written(cells=["print(1)"]), "format 4"),
    "cells without a type": (written(AFTER | {"cell_type": None}), "format 4"),
    "sources are numbers": (written(code([1, 2])), "format 4"),
    "pointer of Git LFS": ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run `git lfs pull`"),
    "conflict": ("<<<<<<< HEAD\n" + written(AFTER), "not whole JSON"),
    "cut off": (written(AFTER)[:-5], "not whole JSON"),
    "empty": ("", "not whole JSON"),
    "nested without end": ("[" * 100_000, "not whole JSON"),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project in which one batch executed all that gets through or fails."""
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "notebooks").mkdir()
    texts = GET_THROUGH | {name: text for name, (text, _) in FAIL.items()}
    for name, text in texts.items():
        (folder / "notebooks" / f"{name}.ipynb").write_text(text, encoding="utf-8")
    assert kit(folder, "run", *(f"notebooks/{name}.ipynb" for name in texts), "--timeout", "60").returncode == 1
    return folder


def test_what_jupyter_executes_gets_through(project):
    """Expected errors, errors that are only shown, early ends, odd metadata and kernels of Python get through."""
    ended = {name: statuses(project, name)[0] for name in GET_THROUGH}
    assert {name: status["error"] for name, status in ended.items()} == dict.fromkeys(GET_THROUGH, "")
    assert not [name for name, status in ended.items() if "came to its end" not in outputs(status["folder"])]


def test_what_fails_has_its_reason(project):
    """A reason is never empty, and is the first error that ended the notebook, whatever handled or showed others; a
    kernel whose own handler failed ends its run."""
    ended = {name: statuses(project, name)[0] for name in FAIL}
    told = {name: status["error"][: len(FAIL[name][1])] for name, status in ended.items()}
    assert told == {name: reason for name, (_, reason) in FAIL.items()}
    assert not [name for name, status in ended.items() if "came to its end" in outputs(status["folder"])]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_notebook_of_python_is_refused(tmp_path, name):
    """Other languages, by whatever names them, other formats and torn files are refused in one sentence."""
    text, reason = REFUSED[name]
    (tmp_path / "n.ipynb").write_text(text)
    with pytest.raises(UserError) as refused:
        notebooks.read(tmp_path / "n.ipynb")
    assert reason in str(refused.value) and "\n" not in str(refused.value)
