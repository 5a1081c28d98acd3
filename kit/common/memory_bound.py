"""Runs a command with its process tree under a bound of memory: in a cgroup (v2) of its own where one may be made, and
by the tree's PSS, read 20 times a second without the pages of files, which a kernel drops before it kills anybody."""

import contextlib
import json
import time
from pathlib import Path

import psutil

from kit.common.services import Service
from kit.errors import UserError
from kit.measure import memory

_JOIN = """{ mkdir "$0" && [ -e "$0/memory.max" ] && echo "$1" >"$0/memory.max" && { echo 0 >"$0/memory.swap.max"
echo 1 >"$0/memory.oom.group"; echo $$ >"$0/cgroup.procs"; } || rmdir "$0"; } 2>/dev/null; shift; exec "$@" """


def run(command: list[str], given: str, bound_gib: float, limit_s: float) -> dict:
    """Return the JSON that `command` writes to `answer.json` in its working directory, and `peak_mib` of its tree.
    given: its input. Raise `UserError` where it reaches the bound, takes over `limit_s` or leaves no answer."""
    own = Path("/sys/fs/cgroup", Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip())
    group, peak, end = own.parent / f"kit-{time.time_ns()}", 0.0, time.monotonic() + limit_s
    command = ["/bin/sh", "-c", _JOIN, str(group), str(int(bound_gib * 2**30)), *command]
    with Service("engine", command, ready=lambda port: True, stdin=given).start() as service:
        while service.running and time.monotonic() < end and peak <= bound_gib:
            with contextlib.suppress(psutil.Error):
                tree = [top := psutil.Process(service.pid), *top.children(recursive=True)]
                if sum(used.rss - used.shared for used in (one.memory_info() for one in tree)) > peak * 2**30:
                    peak = max(peak, sum(memory.mib(one.pid, "smaps_rollup", "Pss_Anon") for one in tree) / 1024)
            time.sleep(0.05)
        late, answer, bounded = service.running, service.folder / "answer.json", group.exists()
        killed = bounded and "oom_kill 0\n" not in (group / "memory.events").read_text()
        service.kill()
        with contextlib.suppress(OSError):  # there is none, or its last process is still ending
            group.rmdir()
        if peak > bound_gib or killed or late or not answer.exists():
            why = f"over {limit_s:g} s" if late else service.last_output() or "it ended without an answer"
            raise UserError(f"out of memory under {bound_gib:g} GiB" if killed or peak > bound_gib else why)
        return json.loads(answer.read_text()) | {"peak_mib": 1024 * peak, "bounded_by": "cgroup" if bounded else "PSS"}
