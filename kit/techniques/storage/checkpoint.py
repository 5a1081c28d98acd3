"""Checkpoints: written by several libraries, flushed, read back; complete or absent, whenever the writer dies."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import torch
from msgspec.structs import replace
from safetensors import torch as safetensors
from torch.distributed import checkpoint as distributed

from kit.common import parameters
from kit.measure.work import TIME, Measurement, Peak, Setup, verified
from kit.record.document import ExecutionProof
from kit.techniques.storage import batches, servers

State = dict[str, torch.Tensor]
PARTIAL = ".partial"
"""Suffix of what is not complete, which no reader takes."""
PART = 8 * 2**20
"""Bytes of a part of a multipart upload, and of a block of the disk's peak."""


def state(mib: float) -> State:
    """Return float32 tensors of so many MiB in all, as random as weights are; half of them are one tensor."""
    numbers = int(parameters.at_least(mib, 1, "checkpoint_mib", most=100_000) * 2**18)
    random, sizes = torch.Generator().manual_seed(0), [numbers // 16] * 8 + [numbers // 2]
    return {f"layer{place}.weight": torch.randn(size, generator=random) for place, size in enumerate(sizes)}


@contextmanager
def atomically(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """Yield a path to write a file or a folder at, which then becomes `path`: complete, or not at all.

    flush: to the disk before it gets its name, and then the name, so that both survive a power failure."""
    unfinished = path.with_name(path.name + PARTIAL)
    remove(unfinished)
    yield unfinished
    for written in [*unfinished.rglob("*"), unfinished] if flush else []:
        _flush(written)
    remove(path)
    os.replace(unfinished, path)
    if flush:
        _flush(path.parent)


def complete(folder: Path) -> list[str]:
    """Return the names of the checkpoints that a reader takes, sorted: none of hidden files, as safetensors writes."""
    return sorted(path.name for path in folder.glob("[!.]*") if not path.name.endswith(PARTIAL))


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def to_distributed(found: State, path: Path) -> None:
    """Write by torch.distributed.checkpoint, here with one rank; `atomically` flushes."""
    distributed.save(found, storage_writer=distributed.FileSystemWriter(path, sync_files=False), no_dist=True)


def from_distributed(path: Path) -> State:
    """Read by torch.distributed.checkpoint, with the shapes of its metadata."""
    reader = distributed.FileSystemReader(path)
    found = {name: torch.empty(one.size) for name, one in reader.read_metadata().state_dict_metadata.items()}
    distributed.load(found, storage_reader=reader, no_dist=True)
    return found


LIBRARIES = {
    "torch.save": (torch.save, partial(torch.load, weights_only=True)),
    "safetensors": (safetensors.save_file, safetensors.load_file),
    "torch.distributed.checkpoint": (to_distributed, from_distributed),
}
"""How each writes a state to a path and reads it: none executes what a file contains."""


def on_disk(name: str, mib: float, folder: Path, *, flush: bool = True) -> Setup:
    """Return a variant: a library writes a checkpoint, which is timed, and reads it back past the page cache.

    flush: the time ends when the disk has it, not the page cache."""
    (write, read), found, path = LIBRARIES[name], state(mib), folder / f"{name}-{os.getpid()}"
    peak = Peak(TIME, mib / 1024 / disk_gib_per_s(folder), "the bytes, written and flushed at the disk's measured rate")

    def save() -> None:
        with atomically(path, flush=flush) as unfinished:
            write(found, unfinished)

    def load() -> State:
        files = [one for one in [path, *path.rglob("*")] if one.is_file()]
        batches.drop_cached(folder, [str(file.relative_to(folder)) for file in files])
        return read(path)

    def proof() -> ExecutionProof:
        before = psutil.disk_io_counters()
        save()
        wrote = (psutil.disk_io_counters().write_bytes - before.write_bytes) / 2**20 if before else 0
        seen = verified(disks_wrote_mib=round(wrote, 1), flushed=flush)
        return replace(seen, state="unverified", note="no disk counted it") if flush and wrote < mib else seen

    return Setup(partial(_timed, save, load, mib), proof, partial(remove, path), peak=peak if flush else None)


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


def disk_gib_per_s(folder: Path, mib: int = 64, repeats: int = 3) -> float:
    """Return the best rate of writing a file in large blocks and flushing it: the disk's peak for a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    block, times_s, path = os.urandom(PART), [], folder / f"peak-{os.getpid()}{PARTIAL}"
    for _ in range(repeats):
        with open(path, "wb", buffering=0) as file:
            start = time.perf_counter()
            for _ in range(mib * 2**20 // PART):
                file.write(block)
            os.fsync(file.fileno())
        times_s.append(time.perf_counter() - start)
    remove(path)
    return mib / 1024 / min(times_s)
