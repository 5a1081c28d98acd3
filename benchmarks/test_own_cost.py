"""What the kit itself costs, as far as pytest-benchmark can measure it: `pytest benchmarks/test_own_cost.py`.

Each group holds the kit against what a person would use without it; the costs whose sides must take turns in random
order are in `own_cost.py`.
"""

import json
import random
import sys
import timeit
from pathlib import Path

import cloudpickle
import own_cost
import pytest

from kit.measure import statistics
from kit.measure.process import SpawnedWorker
from kit.measure.work import Setup
from kit.measure.worker import Work
from kit.record import store

sys.path.insert(0, str(own_cost.ROOT / "tests"))
from record_factory import make_record


@pytest.mark.parametrize("command", own_cost.STARTS)
def test_start(benchmark, command):
    """Starting the kit takes a small part of what starting Papermill takes."""
    benchmark.group = "start"
    benchmark.pedantic(own_cost.run, [own_cost.STARTS[command]], rounds=5)


def test_timeit_of_nothing(benchmark):
    """What one timing of an empty call takes with timeit: what a measurement is held against."""
    benchmark.group = "one timing of an empty call"
    benchmark(timeit.timeit, own_cost.nothing, number=1)


def test_measurement_of_nothing(benchmark):
    """What one measurement of an empty variant takes inside the worker."""
    benchmark.group = "one timing of an empty call"
    work = Work()
    work.prepared = Setup(own_cost.nothing)
    assert benchmark(work.measure)["wall_s"] > 0


def test_order_for_a_measurement_of_nothing(benchmark):
    """What one measurement takes when the parent orders it from a worker in a process of its own."""
    benchmark.group = "one timing of an empty call"
    worker = SpawnedWorker(threads=1, timeout_s=60)
    try:
        worker.order("setup", cloudpickle.dumps((lambda: lambda: None, ())))
        assert benchmark(worker.order, "measure")["wall_s"] > 0
    finally:
        worker.end()


@pytest.fixture(scope="module")
def record_file(tmp_path_factory) -> Path:
    """A record with four sizes and sixty rounds, in a file."""
    return store.write(make_record(rounds=60), tmp_path_factory.mktemp("records"))


def test_json_of_a_record(benchmark, record_file):
    """What reading a record as plain JSON takes: what the checked reading is held against."""
    benchmark.group = "read a record"
    benchmark(lambda: json.loads(record_file.read_bytes()))


def test_read_a_record(benchmark, record_file):
    """What reading a record takes when its version and every type in it are checked."""
    benchmark.group = "read a record"
    assert benchmark(store.read, record_file).complete


def test_interim_analysis(benchmark):
    """What one interim analysis of 200 rounds takes: the interval and the drift."""
    benchmark.group = "an interim analysis of 200 rounds"
    chance = random.Random(1)
    differences = [chance.gauss(0, 0.03) for _ in range(200)]
    assert benchmark(statistics.effect, differences).rounds == 200
