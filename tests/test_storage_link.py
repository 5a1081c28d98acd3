"""A link has the bandwidth that it is given, or is named modelled; nothing of it stays behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kit.common.services import Service
from kit.errors import UserError
from kit.machine.capabilities import Missing
from kit.techniques.storage import link

needs_root = pytest.mark.skipif(link.shaping_permitted() is not True, reason=str(link.shaping_permitted()))


def own_namespace() -> str:
    return os.readlink("/proc/thread-self/ns/net")


def linked(mbit_per_s: float) -> Service:
    """Return a process in a namespace of its own, which has started when its link is shaped."""
    command = link.shaped(["sh", "-c", "touch shaped && exec sleep infinity"], mbit_per_s)
    service = Service("link", command, ready=lambda _: (service.folder / "shaped").exists())
    return service.start()


def test_a_transfer_is_modelled_by_its_bytes_and_requests():
    """10 MB over 100 Mbit/s take 0.8 s, and each of four requests a round trip of 25 ms."""
    assert link.transfer_s(10e6, 4, 100, rtt_ms=25) == pytest.approx(0.9)


def test_an_impossible_bandwidth_is_refused():
    """One sentence has what was given and what is allowed."""
    for wrong in (0, -1, float("nan"), "fast"):
        with pytest.raises(UserError, match=r"mbit_per_s=.*; give a number"):
            link.transfer_s(1, 1, wrong)
        with pytest.raises(UserError, match=r"mbit_per_s=.*; give a number"):
            link.shaped([], wrong)


@needs_root
@pytest.mark.parametrize("mbit_per_s", [20, 200])
def test_the_link_is_never_faster_than_asked(mbit_per_s):
    """However fast the machine, no more bytes pass than the bandwidth allows."""
    with linked(mbit_per_s) as service:
        found = link.within(link.NAMESPACE.format(service.pid), lambda: link.measured_mbit_per_s(1 << 20))
    assert 0 < found < 1.1 * mbit_per_s


@needs_root
def test_only_the_thread_that_enters_is_within():
    """The notebook's own process stays outside; an empty path is no namespace."""
    outside = own_namespace()
    with linked(100) as service:
        path = link.NAMESPACE.format(service.pid)
        assert link.within(path, own_namespace) == os.readlink(path) != outside
        assert own_namespace() == outside == link.within("", own_namespace)


@needs_root
def test_a_killed_process_leaves_no_namespace():
    """After SIGKILL of the process that created it, the namespace's own process ends, and the namespace with it."""
    code = (
        "import time; from test_storage_link import link, linked; service = linked(100);"
        "print(link.NAMESPACE.format(service.pid), flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True)
    path = Path(child.stdout.readline().strip())
    assert os.readlink(path).startswith("net:")
    child.kill()
    child.wait()
    deadline = time.monotonic() + 10
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not path.exists()
    with pytest.raises(UserError, match=r"can't enter.*start it again"):
        link.within(str(path), own_namespace)


def test_without_permission_the_reason_and_the_remedy_are_given(monkeypatch):
    """Where the namespace can't be created, the link is missing with the reason and a remedy."""
    monkeypatch.setenv("PATH", "/bin-that-is-not-there")
    found = link.shaping_permitted.__wrapped__()
    assert isinstance(found, Missing) and "unshare" in found.reason and found.remedy == link.REMEDY
