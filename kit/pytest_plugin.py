"""A plugin of pytest: keeps what pytest-benchmark measured as records, beside those of notebooks.

    pytest -p kit.pytest_plugin benchmarks/ --kit-runs runs

writes `runs/benchmarks/<time>/records/*.json`, one a group of benchmarks, which `kit report` and `kit compare` read.
pytest-benchmark times one benchmark after the other, so the records claim no speed-up between them; what this machine
could do is probed in the same session, so that times of different days can be compared.
"""

from pathlib import Path

import pytest

from kit.record import words
from kit.stored import pytest_json
from kit.stored.pytest_json import Timed

PACKAGES = ("pytest", "pytest-benchmark")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that asks for records."""
    group = parser.getgroup("kit", "records of the ML Scaling Kit")
    group.addoption(
        "--kit-runs", metavar="DIR", default=None, help="keep what pytest-benchmark measures as records in this folder"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Collect, where records are asked for."""
    if config.getoption("--kit-runs") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Keeper(Path(config.getoption("--kit-runs"))), "kit-keeper")


class Keeper:
    """Collects every benchmark as it ends, and writes the records when all have."""

    def __init__(self, runs: Path):
        self.runs = runs
        self.tests: list[Timed] = []
        self.written: list[Path] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo):
        """Keep the readings of a benchmark that has just been called."""
        report = yield
        fixture = getattr(item, "funcargs", {}).get("benchmark") if call.when == "call" else None
        if fixture is not None and (test := _timed(fixture, report)):
            self.tests.append(test)
        return report

    def pytest_sessionfinish(self) -> None:
        """Write a record a group. A session that timed nothing leaves nothing."""
        if self.tests:
            self.written = keep(self.tests, self.runs)

    def pytest_terminal_summary(self, terminalreporter) -> None:
        """Say where the records are."""
        if self.written:
            terminalreporter.write_line(f"kit: {words.count(len(self.written), 'records')} in {self.written[0].parent}")
        else:
            terminalreporter.write_line("kit: no benchmark was measured, so no record was written")


def _timed(fixture, report: pytest.TestReport) -> Timed | None:
    """Return what the fixture `benchmark` measured; None if it was not used or is switched off."""
    measured = getattr(fixture, "stats", None)
    if measured is None:
        return None
    failed = "" if report.passed else f"its test {report.outcome}"
    seconds = [] if failed else [float(s) for s in measured.stats.data]
    return Timed(
        name=fixture.name,
        fullname=fixture.fullname,
        group=fixture.group,
        seconds=seconds,
        median_s=float(measured.stats.median) if seconds else None,
        rounds=len(seconds),
        iterations=int(measured.iterations),
        parameters=dict(fixture.params or {}),
        failed=failed,
    )


def keep(tests: list[Timed], runs: Path) -> list[Path]:
    """Write the records of one session of pytest into a folder of its own in `runs`, and return their paths."""
    import msgspec

    from kit.machine import ceilings, fingerprint
    from kit.record import store

    threads = fingerprint.usable_cores()
    on = msgspec.structs.replace(fingerprint.machine(), ceilings=ceilings.measured(ceilings.QUICK, threads))
    folder = runs / "benchmarks" / store.new_id() / "records"
    versions, written = fingerprint.versions() | _versions(), store.now()
    records = (
        pytest_json.record(*group, on, versions, fingerprint.git(), written, threads)
        for group in pytest_json.grouped(tests)
    )
    return [store.write(record, folder) for record in records]


def _versions() -> dict[str, str]:
    from importlib import metadata

    return {name: metadata.version(name) for name in PACKAGES}
