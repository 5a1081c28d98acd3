"""A link has the bandwidth that it is given, or is named modelled; nothing of it stays behind."""

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from kit.common.services import Service
from kit.errors import UserError
from kit.machine.capabilities import Missing
from kit.techniques.storage import link

needs_root = pytest.mark.skipif(link.shaping_permitted() is not True, reason=str(link.shaping_permitted()))


def own_namespace() -> str:
    return os.readlink("/proc/thread-self/ns/net")


def test_a_transfer_is_modelled_by_its_bytes_and_requests():
    """10 MB over 100 Mbit/s take 0.8 s, and each of four requests a round trip of 25 ms."""
    assert link.transfer_s(10e6, 4, 100, rtt_ms=25) == pytest.approx(0.9)


def test_an_impossible_bandwidth_is_refused():
    """One sentence has what was given and what is allowed."""
    for wrong in (0, -1, float("nan"), "fast"):
        with pytest.raises(UserError, match=r"mbit_per_s=.*; give a number"):
            link.transfer_s(1, 1, wrong)
        with pytest.raises(UserError, match=r"mbit_per_s=.*; give a number"):
            link.Namespace(wrong)


@needs_root
@pytest.mark.parametrize("mbit_per_s", [20, 200])
def test_the_link_is_never_faster_than_asked(mbit_per_s):
    """However fast the machine, no more bytes pass than the bandwidth allows."""
    with link.Namespace(mbit_per_s) as namespace:
        assert 0 < link.within(namespace.path, lambda: link.measured_mbit_per_s(1 << 20)) < 1.1 * mbit_per_s


@needs_root
def test_server_and_client_meet_within_the_namespace(tmp_path):
    """A server within answers a client that entered, through the link; from outside nothing listens there."""
    (tmp_path / "data").write_bytes(bytes(1 << 20))
    with link.Namespace(1000) as namespace:
        command = namespace.command([sys.executable, "-m", "http.server", "{port}", "--directory", str(tmp_path)])
        with Service("server", command, ready=namespace.listens).start() as server:
            url = f"http://127.0.0.1:{server.port}/data"
            assert len(link.within(namespace.path, lambda: urllib.request.urlopen(url).read())) == 1 << 20
            with pytest.raises(OSError, match="refused"):
                urllib.request.urlopen(url)


@needs_root
def test_only_the_thread_that_enters_is_within():
    """The notebook's own process stays outside; an empty path is no namespace."""
    outside = own_namespace()
    with link.Namespace(100) as namespace:
        assert link.within(namespace.path, own_namespace) == os.readlink(namespace.path) != outside
        assert own_namespace() == outside == link.within("", own_namespace)


@needs_root
def test_a_killed_process_leaves_no_namespace():
    """After SIGKILL of the process that created it, the namespace's own process ends, and the namespace with it."""
    code = (
        "import time; from kit.techniques.storage.link import Namespace; n = Namespace(100).start();"
        "print(n.path, flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
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
    """Where the namespace can't be created, the link is missing with a remedy, and starting one is one sentence."""
    monkeypatch.setenv("PATH", "/bin-that-is-not-there")
    found = link.shaping_permitted.__wrapped__()
    assert isinstance(found, Missing) and "unshare" in found.reason and found.remedy == link.REMEDY
    with pytest.raises(UserError, match=r"^there is no network namespace: .*; run as root"):
        link.Namespace(100).start()
