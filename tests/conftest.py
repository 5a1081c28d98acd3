"""What every test needs: records go to a folder of the test's own, never into the project's `runs/`."""

import pytest
from browser import axe, chromium, contexts, page, trap  # noqa: F401
from small_net import model_project, small, small_project  # noqa: F401


@pytest.fixture(autouse=True, scope="session")
def _runs_elsewhere(tmp_path_factory):
    """Fixtures that outlive one test write their records into a folder of the session; no peaks are measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_RUN", str(tmp_path_factory.mktemp("run")))
        patch.setenv("KIT_PROBE_S", "0")  # peaks of the machine have tests of their own, and take seconds per process
        yield


@pytest.fixture
def simulated_clock(monkeypatch):
    """The clock of `load.open_loop` advances only by the seconds that this function, in place of `sleep`, gets."""
    from kit.common.load import loops

    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(loops, "perf_counter", lambda: now[0])
    monkeypatch.setattr(loops, "sleep", sleep)
    return sleep


@pytest.fixture(autouse=True)
def run_folder(tmp_path, monkeypatch):
    """Each test has a run's folder of its own, as the batch runner gives one to each notebook."""
    folder = tmp_path / "run"
    monkeypatch.setenv("KIT_RUN", str(folder))
    monkeypatch.delenv("KIT_NOTEBOOK", raising=False)
    return folder
