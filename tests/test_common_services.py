"""A service answers on its port, restarts there, and leaves no process behind, however its parent ends."""

import os
import signal
import subprocess
import sys
import time
import urllib.request

import psutil
import pytest

from kit.common import services
from kit.errors import UserError

SERVER = [sys.executable, "-P", "-m", "http.server", "--bind", "127.0.0.1", "{port}"]
CHILD = "import subprocess, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
WITH_CHILD = [sys.executable, "-c", CHILD]


def gone(pid: int) -> bool:
    """Wait until a process has ended, at most 60 s."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def printed(server: services.Service) -> str:
    """Wait until a server has printed something, at most 60 s, and return it."""
    deadline = time.monotonic() + 60
    while not server.last_output() and time.monotonic() < deadline:
        time.sleep(0.02)
    return server.last_output()


def reached(port: int) -> bool:
    return urllib.request.urlopen(f"http://127.0.0.1:{port}").status == 200


def test_a_server_answers_ends_and_restarts_on_its_port():
    """The port stays the same, so that a client can meet an outage; after `close` its folder is gone."""
    with services.Service("test server", SERVER).start() as server:
        assert reached(server.port) and server.running
        first = server.pid
        server.kill()
        assert gone(first) and not server.running and not services.listens(server.port)
        assert reached(server.start().port) and server.pid != first
        last, folder = server.pid, server.folder
    assert gone(last) and not folder.exists()


def test_input_and_environment_reach_the_server():
    """Settings come by standard input, with the port in them, and variables by name."""
    code = "import os, sys, time; print(sys.stdin.read(), os.environ['GIVEN'], flush=True); time.sleep(600)"
    given = {"stdin": "port {port}", "environment": {"GIVEN": "too"}, "ready": lambda port: True}
    with services.Service("reader", [sys.executable, "-c", code], **given).start() as server:
        assert printed(server) == f"port {server.port} too"


def test_a_server_that_fails_says_its_last_words():
    """The reason, its last lines and the limit are in the error, and nothing is left running."""
    failing = [sys.executable, "-c", "raise SystemExit('no such setting')"]
    with pytest.raises(UserError, match=r"broken did not start on port \d+: it ended with 1; no such setting"):
        services.Service("broken", failing).start()
    with pytest.raises(UserError, match=r"mute .* is not ready after 0.3 s; it printed nothing"):
        services.Service("mute", ["sleep", "600"], start_s=0.3).start()
    with pytest.raises(UserError, match="absent-program"):
        services.Service("absent", ["absent-program"]).start()
    with pytest.raises(UserError, match="absent-program is not installed; install it"):
        services.installed(["absent-program"], "install it")


def test_children_of_a_server_end_with_it():
    """`kill` ends the whole process group."""
    with services.Service("parent", WITH_CHILD, ready=lambda port: True).start() as server:
        child = int(printed(server))
        server.kill()
        assert gone(child)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
def test_a_server_and_its_children_end_with_the_parent(how):
    """Killed by either signal, or ended by its last line, a parent takes its services along."""
    code = (
        "import sys, time\nfrom kit.common import services\n"
        f"one = services.Service('parent', {WITH_CHILD!r}, ready=lambda port: True).start()\n"
        "while not one.last_output(): time.sleep(0.02)\n"
        f"print(one.pid, one.last_output(), flush=True)\n{'' if how is None else 'time.sleep(600)'}"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    if how is not None:
        os.kill(parent.pid, how)
    parent.wait()
    parent.stdout.close()
    assert all(map(gone, pids))
