"""What happens on a worker of a Dask cluster: it executes one run, whose folder it hands back.

The functions are called by name through Dask, with what a run is made of; no environment, path or code of the client
comes along but the notebook itself.
"""

import os
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from kit.batch import process, runs
from kit.batch.locks import machine_to_ourselves
from kit.batch.plans import Run
from kit.machine.fingerprint import machine

_cancelled: set[str] = set()


@dataclass(frozen=True)
class Gathered:
    """What came of a run: its folder, as a zip file; and where, with its key there."""

    folder: bytes = b""
    worker: str = ""
    machine: str = ""
    key: str = ""
    seconds: float = 0.0
    error: str = ""
    cancelled: bool = False


def shipped(run: Run) -> Run:
    """Return a run as it travels: its notebook has no folder, so that it runs in that of the worker."""
    return replace(run, notebook=replace(run.notebook, path=Path(run.notebook.path.name)))


def cancel(names: list[str]) -> None:
    """Have these runs end as Ctrl-C ends one, keeping what they have measured."""
    _cancelled.update(names)


def execute(run: Run, name: str, version: str, finished: set[str]) -> Gathered:
    """Execute a run, alone on this machine, and return its folder; nothing if its key is one of `finished`.

    name: of the Dask task; version: of the kit that asks, which must be the one here. It ends early when it is
    cancelled, when Dask lets go of the task, as of one whose client is gone, or when the worker closes; no process of
    it is left then, nor anything in the worker's folder."""
    import dask
    from distributed import get_worker

    worker = get_worker()
    here = worker.address, machine().key, runs.key(run)
    if version != runs.version():
        other = f"the kit of worker {worker.address} is {runs.version()}; install there what is here: {version}"
        return Gathered(b"", *here, error=other)
    if here[-1] in finished:
        return Gathered(b"", *here)

    # What Dask's nanny sets for its own work, as one thread for every library, is not how a notebook runs by hand.
    nannys = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    own = {name: value for name, value in os.environ.items() if str(nannys.get(name)) != value}

    def poll() -> None:
        task = worker.state.tasks.get(name)
        if name in _cancelled or task is None or task.state == "cancelled" or worker.status.name != "running":
            raise KeyboardInterrupt

    with tempfile.TemporaryDirectory(prefix="kit-run-", dir=worker.local_directory) as path:
        folder, began, error, cancelled = Path(path, "run"), time.monotonic(), "", False
        folder.mkdir()
        with runs.begin(folder, run) as log:
            try:
                with machine_to_ourselves(lambda text: None, poll) as holding:
                    began = time.monotonic()
                    error = process.execute(run, folder, log, holding, poll, own)
            except KeyboardInterrupt:
                cancelled = True
            except OSError as problem:
                error = f"the worker could not execute it: {problem}"
        runs.tidy(folder)
        packed = Path(shutil.make_archive(str(folder), "zip", folder)).read_bytes()
        return Gathered(packed, *here, time.monotonic() - began, error, cancelled)
