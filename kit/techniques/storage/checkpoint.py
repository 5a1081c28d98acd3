"""Checkpoints: written by two libraries or to S3, flushed, read back; complete or absent, whenever the writer dies."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import torch
from safetensors import torch as safetensors

from kit.common import disk, parameters
from kit.measure.work import TIME, Measurement, Peak, Setup, verified
from kit.record.document import ExecutionProof
from kit.techniques.storage import batches, servers

State = dict[str, torch.Tensor]
PARTIAL = ".partial"
"""Suffix of what is not complete, which no reader takes; nor hidden files, as safetensors writes."""
PART = 8 * 2**20
"""Bytes of a part of a multipart upload."""


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

    def save() -> None:
        with atomically(path, flush=flush) as unfinished:
            write(found, unfinished)

    def load() -> State:
        disk.drop_cached([path])
        return read(path)

    def proof() -> ExecutionProof:
        before = psutil.disk_io_counters()
        save()
        wrote = (psutil.disk_io_counters().write_bytes - before.write_bytes) / 2**20 if before else 0
        state, note = ("unverified", "no disk counted it") if flush and wrote < mib else ("verified", "")
        return ExecutionProof(state=state, note=note, facts={"disks_wrote_mib": round(wrote, 1), "flushed": flush})

    remove = partial(path.unlink, missing_ok=True)
    return Setup(partial(_timed, save, load, mib), proof, remove, peak=peak if flush else None)


def on_s3(bucket: servers.Bucket, mib: float, folder: Path) -> Setup:
    """Return a variant: a checkpoint is uploaded in parts, the last of which makes it visible, and read back."""
    found, store, key = state(mib), bucket.obstore(), f"checkpoint-{os.getpid()}"

    def save() -> None:
        with bucket.reached(key):
            store.put(key, safetensors.save(found), chunk_size=PART, use_multipart=True)

    def load() -> State:
        return safetensors.load(bytes(store.get(key).bytes()))

    def proof() -> ExecutionProof:
        save()
        return verified(object_mib=round(store.head(key)["size"] / 2**20, 1), flushed=False)

    return Setup(partial(_timed, save, load, mib), proof, partial(store.delete, key))


def _timed(save: Callable[[], None], load: Callable[[], State], mib: float) -> Measurement:
    start = time.perf_counter()
    save()
    saved = time.perf_counter()
    found = load()
    read_s, write_s = time.perf_counter() - saved, saved - start
    metrics = {"write_gib_per_s": mib / 1024 / write_s, "read_gib_per_s": mib / 1024 / read_s}
    return Measurement(write_s, metrics, lambda: batches.digest(found[name] for name in sorted(found)))
