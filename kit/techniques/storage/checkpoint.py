"""Checkpoints: written by two libraries, flushed, read back; complete or absent, whenever the writer dies."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import torch
from safetensors import torch as safetensors

from kit.common import disk, parameters
from kit.measure.work import TIME, Measurement, Peak, Setup
from kit.record.document import ExecutionProof
from kit.techniques.storage import training

State = dict[str, torch.Tensor]
PARTIAL = ".partial"
"""Suffix of what is not complete, which no reader takes; nor hidden files, as safetensors writes."""


def state(mib: float) -> State:
    """Return float32 tensors of so many MiB in all, as random as weights are; half of them are one tensor."""
    numbers = int(parameters.at_least(mib, 1, "checkpoint_mib", most=100_000) * 2**18)
    random, sizes = torch.Generator().manual_seed(0), [numbers // 16] * 8 + [numbers // 2]
    return {f"layer{place}.weight": torch.randn(size, generator=random) for place, size in enumerate(sizes)}


@contextmanager
def atomically(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """Yield a path to write a file at, which then becomes `path`: complete, or not at all.

    flush: to the disk before it gets its name, and then the name, so that both survive a power failure."""
    unfinished = path.with_name(path.name + PARTIAL)
    yield unfinished
    if flush:
        _flush(unfinished)
    os.replace(unfinished, path)
    if flush:
        _flush(path.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


LIBRARIES = {
    "torch.save": (torch.save, partial(torch.load, weights_only=True)),
    "safetensors": (safetensors.save_file, safetensors.load_file),
}
"""How each writes a state to a path and reads it: none executes what a file contains."""


def on_disk(name: str, mib: float, folder: Path, *, flush: bool = True) -> Setup:
    """Return a variant: a library writes a checkpoint, which is timed, and reads it back past the page cache.

    flush: the time ends when the disk has it, not the page cache."""
    (write, read), found, path = LIBRARIES[name], state(mib), folder / f"{name}-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    peak = Peak(TIME, mib / disk.write_mib_per_s(folder), "the bytes, written and flushed at the disk's measured rate")

    def save() -> float:
        start = time.perf_counter()
        with atomically(path, flush=flush) as unfinished:
            write(found, unfinished)
        return time.perf_counter() - start

    def call() -> Measurement:
        write_s = save()
        disk.drop_cached([path])
        start = time.perf_counter()
        back = read(path)
        read_s = time.perf_counter() - start
        metrics = {"write_gib_per_s": mib / 1024 / write_s, "read_gib_per_s": mib / 1024 / read_s}
        return Measurement(write_s, metrics, lambda: training.digest(back[name] for name in sorted(back)))

    def proof() -> ExecutionProof:
        before = psutil.disk_io_counters()
        save()
        wrote = (psutil.disk_io_counters().write_bytes - before.write_bytes) / 2**20 if before else 0
        state, note = ("unverified", "no disk counted it") if flush and wrote < mib else ("verified", "")
        return ExecutionProof(state=state, note=note, facts={"disks wrote": f"{wrote:.1f} MiB", "flushed": flush})

    return Setup(call, proof, partial(path.unlink, missing_ok=True), peak=peak if flush else None)
