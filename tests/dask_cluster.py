"""A real Dask cluster for tests: a scheduler and workers as processes of their own, each with a place of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SCHEDULER = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard", "--port", "0"]
WORKER = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-dashboard", "--nthreads", "1", "--no-nanny"]


@dataclass
class Cluster:
    """A scheduler and its workers. Each worker has a temporary folder of its own, so a machine lock of its own."""

    folder: Path
    address: str = ""
    processes: list[subprocess.Popen] = field(default_factory=list)

    def start(self, host: str = "127.0.0.1") -> "Cluster":
        """Start the scheduler and return when it listens."""
        file = self.folder / "scheduler.json"
        few = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
        self._spawn([*SCHEDULER, "--host", host, "--scheduler-file", str(file)], "scheduler", **few)
        deadline = time.monotonic() + 60
        while not (file.exists() and file.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.address = json.loads(file.read_text())["address"]
        return self

    def worker(self, project: Path, *options: str, host: str = "127.0.0.1", **changes: str):
        """Start a worker that stands in `project`, and return its process. changes: of its environment."""
        command = [*WORKER, self.address, "--host", host, *options]
        return self._spawn(command, f"worker{len(self.processes)}", project, **changes)

    def wait(self) -> None:
        """Return when all workers that live have joined."""
        logs = {self.folder / f"worker{n}.log": process for n, process in enumerate(self.processes) if n}
        deadline = time.monotonic() + 60
        while any(p.poll() is None and "Registered to" not in log.read_text() for log, p in logs.items()):
            assert time.monotonic() < deadline, "a worker did not join"
            time.sleep(0.05)

    def _spawn(self, command: list[str], name: str, cwd: Path | None = None, **changes: str) -> subprocess.Popen:
        own = self.folder / name
        own.mkdir()
        environment = os.environ | {"HOME": str(own), "TMPDIR": str(own), "KIT_PROBE_S": "0"}
        environment |= {"KIT_LOCK": str(own / "lock")} | changes
        environment.pop("KIT_RUN", None)
        with open(self.folder / f"{name}.log", "w") as log:
            process = subprocess.Popen(command, cwd=cwd or own, env=environment, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def end(self) -> None:
        """Kill what was started."""
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
            process.wait()


@contextmanager
def cluster(folder: Path, **options) -> Iterator[Cluster]:
    """Have a scheduler for as long as the block lasts, and no process of the cluster after it."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Cluster(folder)
    try:
        yield made.start(**options)
    finally:
        made.end()
