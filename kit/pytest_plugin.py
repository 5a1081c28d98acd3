"""A plugin of pytest: keeps what pytest-benchmark measured as records, beside those of notebooks.

    pytest -p kit.pytest_plugin benchmarks/ --kit-runs runs

writes `runs/benchmarks/<time>/records/*.json`, one a group of benchmarks, which `kit report` and `kit compare` read.
pytest-benchmark times one benchmark after the other, so the records claim no speed-up between them; what this machine
could do is probed in the same session, so that times of different days can be compared.
"""

from pathlib import Path

import msgspec
import pytest

from kit.record import formatting as fmt
from kit.runs import pytest_benchmark


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that asks for records."""
    parser.addoption("--kit-runs", metavar="DIR", help="keep what pytest-benchmark measures as records in this folder")


def pytest_configure(config: pytest.Config) -> None:
    """Collect, where records are asked for."""
    if config.getoption("--kit-runs") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Keeper(Path(config.getoption("--kit-runs"))), "kit-keeper")


class Keeper:
    """Collects every benchmark as it ends, and writes the records when all have."""

    def __init__(self, runs: Path):
        self.runs = runs
        self.tests: list[pytest_benchmark.Benchmark] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo):
        """Keep the measurements of a benchmark that has just been called; none if it is switched off."""
        report = yield
        fixture = getattr(item, "funcargs", {}).get("benchmark") if call.when == "call" else None
        if fixture is not None and (measured := getattr(fixture, "stats", None)) is not None:
            test = msgspec.convert(measured.as_dict(), pytest_benchmark.Benchmark, strict=False)
            failed = "" if report.passed else f"its test {report.outcome}"
            self.tests.append(msgspec.structs.replace(test, failed=failed))
        return report

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write a record a group and print where they are. A session that timed nothing leaves nothing."""
        line = "no benchmark was measured, so no record was written"
        if self.tests:
            written = keep(self.tests, self.runs)
            line = f"{fmt.count(len(written), 'records')} in {written[0].parent}"
        terminalreporter.write_line(f"kit: {line}")


def keep(tests: list[pytest_benchmark.Benchmark], runs: Path) -> list[Path]:
    """Write the records of one session of pytest into a folder of its own in `runs`, and return their paths."""
    from kit.machine import fingerprint, peaks
    from kit.record import store

    threads, folder = fingerprint.usable_cores(), runs / "benchmarks" / store.new_id() / "records"
    on = msgspec.structs.replace(fingerprint.machine(), peaks=peaks.measured(peaks.QUICK, threads))
    about = on, fingerprint.versions(), fingerprint.git(), store.now(), threads
    return [store.write(pytest_benchmark.record(*group, *about), folder) for group in pytest_benchmark.grouped(tests)]
