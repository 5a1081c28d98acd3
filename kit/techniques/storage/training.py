"""Consumers fed by a storage: emulated training steps, with waiting for bytes and waiting for decoding apart.

A consumer is an accelerator that takes a batch, computes for `step_s` (it sleeps, as in MLPerf Storage) and takes the
next. Its utilisation is the time in which it computes ÷ elapsed time; it is fed if that is at least 90 %, MLPerf
Storage's rule for image models. A utilisation alone can't show why a consumer waits: here each wait is split by what
its reader does meanwhile.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from kit.common import disk, parameters
from kit.measure.work import TIME, Measurement, Peak, Setup, fell_back, verified
from kit.record.document import ExecutionProof
from kit.techniques.storage import batches, link, servers
from kit.techniques.storage.batches import Fetch

FED = 0.9
"""Least utilisation of a consumer that is fed: MLPerf Storage's bound for ResNet-50 and 3D U-Net."""
STEPS = 20
"""Batches of each consumer per measurement."""
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


NOWHERE = servers.Bucket("")


@dataclass(frozen=True)
class Storage:
    """Where batches are. opened: opens it, in the variant's process. cold: folder whose files are dropped from the page
    cache before each call. served: private bucket whose server's traffic proves that it was read."""

    opened: Callable[[], Fetch]
    cold: Path | None = None
    served: servers.Bucket = NOWHERE


def fed(name: str, count: int, step_s: float, storage: Storage) -> Callable[[int], Setup]:
    """Return a variant, a function of the number of consumers: `count` batches in a format, from a storage."""
    every = [key for number in range(count) for key in batches.keys(name, number)]
    cold = [storage.cold / key for key in every] if storage.cold else []

    def variant(consumers: int) -> Setup:
        fetch = storage.opened()

        def call() -> Measurement:
            disk.drop_cached(cold)
            return feed(fetch, name, count, consumers, step_s)

        peak = Peak(TIME, STEPS * step_s, "each consumer computes and never waits")
        return Setup(call, partial(came_from, storage, fetch, every, cold), peak=peak)

    return variant


def storages(
    opened: ExitStack, folder: Path, wanted: Sequence[str], mbit_per_s: float, url: str
) -> tuple[dict[str, Storage], dict[str, str], servers.Bucket]:
    """Return a folder's storages that are wanted, by name: its disk, memory, S3 of this machine, S3 over a link of this
    bandwidth, and `url`, if given; why one is missing; and the S3 bucket. opened: ends the servers."""
    bucket = opened.enter_context(servers.Server(folder.parent)).bucket(folder.name)
    found = {
        "disk": Storage(partial(batches.from_folder, folder), cold=folder),
        "memory": Storage(partial(batches.from_memory, folder)),
        "S3": (s3 := Storage(partial(batches.from_bucket, bucket), served=bucket)),
        OVER_LINK: s3,
    }
    wanted, missing, permitted = parameters.several(wanted, found, "storages", least=1), {}, link.shaping_permitted()
    if permitted is not True:
        missing[OVER_LINK] = f"{permitted.reason}; {permitted.remedy}"
    elif OVER_LINK in wanted:
        shaped = opened.enter_context(servers.Server(folder.parent, mbit_per_s)).bucket(folder.name)
        found[OVER_LINK] = Storage(partial(batches.from_bucket, shaped), served=shaped)
    if url:
        batches.upload(folder, url)
        wanted, found["your storage"] = [*wanted, "your storage"], Storage(partial(batches.from_url, url))
    return {name: found[name] for name in wanted}, missing, bucket


def came_from(storage: Storage, fetch: Fetch, every: Sequence[str], cold: Sequence[Path]) -> ExecutionProof:
    """Fetch each file once and return where its bytes came from, as `servers.counted` has it."""
    disk.drop_cached(cold)
    size, costs = servers.counted(storage.served, lambda: sum(len(fetch(key)) for key in every))
    counter = "sent_mib" if storage.served.log else "disk_mib"
    facts = {"files": len(every), "read_mib": size / 2**20} | {k: costs[k] for k in ("gets", counter) if k in costs}
    if (cold or storage.served.log) and costs.get(counter, 0) < size / 2**20:
        return fell_back("the page cache, or a file system in memory", **facts)
    return verified(**facts)
