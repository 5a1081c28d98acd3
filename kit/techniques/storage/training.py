"""Consumers fed by a storage: emulated training steps, with waiting for bytes and waiting for decoding apart.

A consumer is an accelerator that takes a batch, computes for `step_s` (it sleeps, as in MLPerf Storage) and takes the
next. Its utilisation is the time in which it computes ÷ elapsed time; it is fed if that is at least 90 %, MLPerf
Storage's rule for image models. A utilisation alone can't show why a consumer waits: here each wait is split by what
its reader does meanwhile.
"""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil

from kit.common import parameters
from kit.measure.work import TIME, Measurement, Peak, Setup, fell_back, verified
from kit.record.document import ExecutionProof
from kit.techniques.storage import batches, link, servers
from kit.techniques.storage.batches import Fetch

FED = 0.9
"""Least utilisation of a consumer that is fed: MLPerf Storage's bound for ResNet-50 and 3D U-Net."""
STEPS = 20
"""Batches of each consumer per measurement."""
MEMORY = "/dev/shm"
"""A file system in memory, where there is one."""
OVER_LINK = "S3 link"
PREFETCH = 2
"""Batches that a reader is ahead of its consumer at most, as a worker of PyTorch's DataLoader is."""
SHARES = ("utilisation", "waiting_for_bytes", "waiting_for_decoding")
"""Metrics of a variant: shares of its consumers' time, the mean over consumers."""


class Reader:
    """Reads batches of one format, and knows in what its time went."""

    def __init__(self, fetch: Fetch, name: str) -> None:
        self._fetch, self._name = fetch, name
        self._state = np.zeros(3), 2, time.perf_counter()  # seconds by phase, the phase now, and since when

    def batch(self, number: int) -> np.ndarray:
        """Fetch and decode a batch."""
        self._begin(0)
        contents = [self._fetch(key) for key in batches.keys(self._name, number)]
        self._begin(1)
        batch = batches.decoded(self._name, contents)
        self._begin(2)
        return batch

    def spent_s(self) -> np.ndarray:
        """Return the seconds until now of fetching, of decoding, and of neither."""
        spent_s, phase, since = self._state  # at once: another thread may begin a phase
        return spent_s + (np.arange(3) == phase) * (time.perf_counter() - since)

    def _begin(self, phase: int) -> None:
        self._state = self.spent_s(), phase, time.perf_counter()


def consume(reader: Reader, numbers: Sequence[int], step_s: float) -> np.ndarray:
    """Take these batches, read ahead by a thread, and compute for `step_s` on each; return `SHARES` of the time."""
    computed_s, waited_s, start = 0.0, np.zeros(3), time.perf_counter()
    with ThreadPoolExecutor(1) as thread:
        pending = iter(numbers)
        ahead = [thread.submit(reader.batch, number) for number in islice(pending, PREFETCH)]
        while ahead:
            before = reader.spent_s()
            ahead.pop(0).result()
            waited_s += reader.spent_s() - before
            ahead += [thread.submit(reader.batch, number) for number in islice(pending, 1)]
            begun = time.perf_counter()
            time.sleep(step_s)
            computed_s += time.perf_counter() - begun
        return np.array([computed_s, *waited_s[:2]]) / (time.perf_counter() - start)


def feed(fetch: Fetch, name: str, count: int, consumers: int, step_s: float) -> Measurement:
    """Feed so many consumers for `STEPS` batches at the same time, each beginning at another of the `count` batches."""
    numbers = [[(count * who // consumers + step) % count for step in range(STEPS)] for who in range(consumers)]
    start = time.perf_counter()
    with ThreadPoolExecutor(consumers) as pool:
        shares = list(pool.map(lambda some: consume(Reader(fetch, name), some, step_s), numbers))
    seconds = time.perf_counter() - start
    metrics = dict(zip(SHARES, np.mean(shares, axis=0).tolist(), strict=True))
    return Measurement(seconds, metrics, lambda: batches.digest(map(Reader(fetch, name).batch, range(count))))


def fed(
    name: str,
    count: int,
    step_s: float,
    *,
    opened: Callable[[], Fetch],
    cold: Path | None = None,
    served: servers.Bucket | None = None,
) -> Callable[[int], Setup]:
    """Return a variant, a function of the number of consumers: `count` batches in a format, from a storage.

    opened: opens the storage, in the variant's process. cold: folder whose files are dropped from the page cache before
    each call. served: private bucket whose server's traffic proves that it was read.
    """
    every = [key for number in range(count) for key in batches.keys(name, number)]

    def variant(consumers: int) -> Setup:
        fetch = opened()

        def call() -> Measurement:
            batches.drop_cached(cold or Path(), every if cold else [])
            return feed(fetch, name, count, consumers, step_s)

        peak = Peak(TIME, STEPS * step_s, "each consumer computes and never waits")
        return Setup(call, lambda: came_from(fetch, every, cold, served), peak=peak)

    return variant


def storages(
    opened: ExitStack, folder: Path, wanted: Sequence[str], mbit_per_s: float, url: str
) -> tuple[dict[str, dict], dict[str, str], servers.Bucket]:
    """Return, by storage that is wanted, the arguments of `fed` for a folder's files: its disk, memory, S3 of this
    machine, S3 over a link of this bandwidth, and `url`, if given; why one is missing; and the S3 bucket.

    opened: ends the servers."""
    bucket = opened.enter_context(servers.Server(folder.parent)).bucket(folder.name)
    in_folder = partial(batches.from_folder, folder)
    found = {"disk": {"opened": in_folder, "cold": folder}, "memory": {"opened": in_folder}}
    found["S3"] = found[OVER_LINK] = {"opened": partial(batches.from_bucket, bucket), "served": bucket}
    wanted, missing = parameters.several(wanted, found, "storages", least=1), {}
    size, permitted = sum(path.stat().st_size for path in folder.rglob("*")), link.shaping_permitted()
    if not os.path.isdir(MEMORY) or shutil.disk_usage(MEMORY).free < 2 * size:
        missing["memory"] = f"{MEMORY} has no room for {size >> 20} MiB; give it more (docker run --shm-size=…)"
    elif "memory" in wanted:
        memory = Path(opened.enter_context(TemporaryDirectory(dir=MEMORY)))
        shutil.copytree(folder, memory, dirs_exist_ok=True)
        found["memory"] = {"opened": partial(batches.from_folder, memory)}
    if permitted is not True:
        missing[OVER_LINK] = f"{permitted.reason}; {permitted.remedy}"
    elif OVER_LINK in wanted:
        namespace = opened.enter_context(link.Namespace(mbit_per_s))
        shaped = opened.enter_context(servers.Server(folder.parent, namespace=namespace)).bucket(folder.name)
        found[OVER_LINK] = {"opened": partial(batches.from_bucket, shaped), "served": shaped}
    if url:
        batches.upload(folder, url)
        wanted, found["your storage"] = [*wanted, "your storage"], {"opened": partial(batches.from_url, url)}
    return {name: found[name] for name in wanted}, missing, bucket


def came_from(fetch: Fetch, every: Sequence[str], cold: Path | None, served: servers.Bucket | None) -> ExecutionProof:
    """Fetch each file once and return where its bytes came from, by the kernel's counters: of this process's reads from
    disks, or of what the server's process wrote."""
    if not hasattr(psutil.Process, "io_counters"):
        return ExecutionProof(state="unverified", note="this system does not count a process's bytes")
    batches.drop_cached(cold or Path(), every if cold else [])
    before = psutil.Process().io_counters().read_bytes
    facts: dict[str, float] = {"files": len(every)}
    if served:
        mib, traffic = servers.counted(served, lambda: sum(len(fetch(key)) for key in every) / 2**20)
        facts |= {"gets": traffic.gets, "sent_by_server_mib": traffic.sent_mib}
    else:
        mib = sum(len(fetch(key)) for key in every) / 2**20
        facts["from_disk_mib"] = (psutil.Process().io_counters().read_bytes - before) / 2**20
    if (served or cold) and [*facts.values()][-1] < mib:
        return fell_back("the page cache, or a file system in memory", read_mib=mib, **facts)
    return verified(read_mib=mib, **facts)
