"""What happens on a worker of a Dask cluster: says what it is, and executes one run, whose folder it hands back.

The functions are called by name through Dask, with what a run is made of; no environment, path or code of the client
comes along but the notebook itself.
"""

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from kit import places
from kit.batch import notebooks, processes, runs
from kit.batch.locks import machine_to_ourselves
from kit.batch.plans import Run
from kit.batch.runs import Claim, Status
from kit.record import words

PROCESS = uuid4().hex
"""Tells this process of a worker from one that takes its place, at its very address."""

_cancelled: set[str] = set()


@dataclass(frozen=True)
class About:
    """What a worker is. keys: of the runs asked about, by the place of each in the list."""

    process: str
    kit: str
    machine: str
    keys: list[str]


@dataclass(frozen=True)
class Gathered:
    """What came of a run: its files, by their paths in its folder. replaced: it was not begun, since the process that
    it was meant for is gone."""

    files: dict[str, bytes]
    seconds: float = 0.0
    error: str = ""
    interrupted: bool = False
    replaced: bool = False


class _Interrupted(Exception):
    """The client wants this run no more, or is gone."""


def shipped(run: Run) -> Run:
    """Return a run as it travels: its notebook without the path that it has here."""
    return replace(run, notebook=replace(run.notebook, path=Path(run.notebook.path.name)))


def _landed(run: Run) -> Run:
    """Return a shipped run as one of this machine: its working directory is the project that the worker stands in."""
    return replace(run, notebook=replace(run.notebook, path=places.project() / "notebooks" / run.notebook.path.name))


def about(asked: list[Run]) -> About:
    """Say what this worker is, and which folders the runs would have from here."""
    return About(PROCESS, runs.version(), runs.machine_key(), [runs.key(_landed(run)) for run in asked])


async def cancel(names: list[str]) -> None:
    """Have these runs end as Ctrl-C ends one, keeping what they have measured. (Only a coroutine is not waited for.)"""
    _cancelled.update(names)


def execute(run: Run, status: Status, process: str, name: str, topic: str) -> Gathered:
    """Execute a run, alone on this machine, and return its folder.

    status: of its folder. process: the worker's, as `about` told it. name: of the Dask task. topic: of the events that
    tell how far it is. It ends early when it is cancelled, when Dask lets go of the task as of one whose client is
    gone, or when the worker closes; no process of it is left then, nor anything in the worker's folder.
    """
    from distributed import get_worker

    if process != PROCESS:
        return Gathered({}, replaced=True)
    worker, run = get_worker(), _landed(run)

    def glance() -> None:
        task = worker.state.tasks.get(name)
        if name in _cancelled or task is None or task.state == "cancelled" or worker.status.name != "running":
            raise _Interrupted

    def say(doing: dict[str, Any]) -> None:
        worker.log_event(topic, {"name": name} | doing)

    with tempfile.TemporaryDirectory(prefix="kit-run-", dir=worker.local_directory) as folder:
        claim = runs.draft(Path(folder), run, status)
        try:
            ended = _execute(run, claim, glance, say)
        finally:
            claim.log.close()
            _cancelled.discard(name)
        notebooks.tidy(claim.folder / "notebook.ipynb", run.notebook)
        runs.tidy_log(claim.folder / "log.txt")
        return replace(ended, files=_files(claim.folder))


def _execute(run: Run, claim: Claim, glance: Callable[[], None], say: Callable[[dict], None]) -> Gathered:
    began, error, interrupted = time.monotonic(), "", False

    def watch() -> None:
        glance()
        if doing := processes.progress(claim.folder):
            say({"doing": doing})

    try:
        with machine_to_ourselves(lambda text: say({"says": text}), glance) as holding:
            _measure_ceilings(claim.folder, say)
            glance()
            began = time.monotonic()
            error = processes.execute(run, claim, holding, watch, _surroundings(os.environ))
    except _Interrupted:
        interrupted = True
    except OSError as problem:
        error = f"the worker could not execute it: {problem}"
    return Gathered({}, time.monotonic() - began, error, interrupted)


def _measure_ceilings(folder: Path, say: Callable[[dict], None]) -> None:
    from kit.machine import ceilings

    say({"says": "measuring what this machine can do at best"})
    try:
        ceilings.leave(folder)
    except Exception as error:  # it never costs the run
        say({"says": f"what this machine can do at best could not be measured: {words.shown(error)}"})


def _surroundings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the worker without what Dask's nanny put there for its own work: one thread for every
    library is not how a notebook would run by hand."""
    import dask

    put = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    return {name: value for name, value in environment.items() if str(put.get(name)) != value}


def _files(folder: Path) -> dict[str, bytes]:
    """Return the files below a run's folder but those of its progress and its status, which the client writes."""
    left = ("status.json", "progress.")
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths if not p.name.startswith(left)}
