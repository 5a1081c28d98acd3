"""What every test needs: records go to a folder of the test's own, never into the project's `runs/`."""

import pytest
from browser import axe, chromium, contexts, page, trap  # noqa: F401


@pytest.fixture(autouse=True, scope="session")
def _runs_elsewhere(tmp_path_factory):
    """Fixtures that outlive one test write their records into a folder of the session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_RUN", str(tmp_path_factory.mktemp("run")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))  # where indexes of records are kept
        yield


@pytest.fixture(autouse=True)
def run_folder(tmp_path, monkeypatch):
    """Each test has a run's folder of its own, as the batch runner gives one to each notebook."""
    folder = tmp_path / "run"
    monkeypatch.setenv("KIT_RUN", str(folder))
    monkeypatch.delenv("KIT_NOTEBOOK", raising=False)
    return folder
