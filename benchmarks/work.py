"""The work of the false-winner study, as each tool takes it: one function by kind, as slow as its amount."""

import os
import sys
import tempfile
import time
import zlib
from collections.abc import Callable

BLOCK = 3000


def python_loop(amount: int) -> Callable[[], int]:
    """Steps of integer arithmetic, all alike. amount: steps."""

    def call() -> int:
        x = 1
        for _ in range(amount):
            x = (x * 1103515245 + 12345) & 0x7FFFFFFF
        return x

    return call


def compression(amount: int) -> Callable[[], int]:
    """zlib on blocks of 3 kB, whose speed depends on what the caches hold. amount: bytes."""
    data = bytes((i * i * 7919 >> 5) & 0x3F for i in range(BLOCK))
    blocks = [data] * (amount // BLOCK) + ([data[: amount % BLOCK]] if amount % BLOCK else [])

    def call() -> int:
        return sum(len(zlib.compress(block)) for block in blocks)

    return call


def string_sort(amount: int) -> Callable[[], str]:
    """Sorting of strings. amount: strings."""
    words = [f"{(i * 2654435761) % 2**32:010d}" for i in range(amount)]
    return lambda: sorted(words)[0]


def durable_write(amount: int) -> Callable[[], int]:
    """A file written and brought to the disk by fsync. amount: blocks of 4 KiB."""
    file, block = tempfile.TemporaryFile(), bytes(4096)  # noqa: SIM115, lives as long as the call

    def call() -> int:
        file.seek(0)
        for _ in range(amount):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return amount

    return call


def groupby(amount: int) -> Callable[[], int]:
    """pandas: the mean of a column by a key of 100 values. amount: rows."""
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(0)
    frame = pd.DataFrame({"key": random.integers(0, 100, amount), "value": random.random(amount)})
    return lambda: len(frame.groupby("key")["value"].mean())


def memory_copy(amount: int) -> Callable[[], int]:
    """A copy of an array that no cache holds. amount: numbers of 8 bytes."""
    import numpy as np

    source, target = np.ones(amount), np.ones(amount)

    def call() -> int:
        np.copyto(target, source)
        return 1

    return call


def matrix_product(amount: int) -> Callable[[], int]:
    """numpy: products of 160 × 160 numbers on all threads. amount: products."""
    import numpy as np

    matrix = np.random.default_rng(0).random((160, 160))

    def call() -> int:
        for _ in range(amount):
            matrix @ matrix
        return 1

    return call


KINDS: dict[str, Callable[[int], Callable]] = {
    "Python loop": python_loop,
    "zlib": compression,
    "string sort": string_sort,
    "write and fsync": durable_write,
    "pandas groupby": groupby,
    "memory copy": memory_copy,
    "matrix product": matrix_product,
}


def seconds(call: Callable, repeats: int = 15) -> float:
    """Return the median seconds of a call now."""
    took = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return sorted(took)[repeats // 2]


def amount_for(kind: str, call_s: float) -> int:
    """Return the amount whose call takes about so long now, at least 20, so that 5 % more is more."""
    amount = 20
    while (took := seconds(KINDS[kind](amount), 5)) < call_s and amount < 10**8:
        amount = int(amount * min(10, max(1.3, 0.9 * call_s / took)))
    return amount


def test_work(benchmark):
    """What pytest-benchmark times."""
    benchmark(KINDS[os.environ["WORK_KIND"]](int(os.environ["WORK_AMOUNT"])))


if __name__ == "__main__":  # what hyperfine times: KIND AMOUNT CALLS
    call = KINDS[sys.argv[1]](int(sys.argv[2]))
    for _ in range(int(sys.argv[3])):
        call()
