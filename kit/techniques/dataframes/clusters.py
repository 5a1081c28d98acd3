"""Sessions of PySpark and Sail, and clusters by address: Dask's (tcp://), Spark's (spark://), Spark Connect (sc://).

`python -m kit.techniques.dataframes.clusters ADDRESS` prints why a cluster can't be used, or nothing.
"""

import os
import re
import socket
import struct
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kit.errors import UserError
from kit.machine import isolated
from kit.machine.fingerprint import allowed_threads, available_mib
from kit.measure.worker import one_line

CLUSTER = " on cluster"
ANSWER_S, TASK_S = 10.0, 180.0
"""Longest wait for an answer, and for a first task, before which a JVM starts."""
HELLO = {
    "tcp": b"",  # a scheduler of Dask speaks first
    "sc": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",  # empty settings (RFC 9113)
    "spark": struct.pack(">qbqi", 21, 0, 0, 0),  # asks for a chunk that there is not
}
"""Scheme → what its server answers."""


def checked(address: str) -> str:
    """Return the address of a cluster whose workers have this Python and these packages; "" stays "".

    Raise `UserError` with the remedy if it does not answer within 10 s, starts no task, or has other versions.
    """
    if not address:
        return ""
    place, got = urlsplit(address.split(",")[0]), f"cluster={address!r}"
    if place.scheme not in HELLO or not re.search(r":\d+$", place.netloc):
        known = "tcp://HOST:8786 (Dask), spark://HOST:7077 or sc://HOST:15002 (Spark)"
        raise UserError(f"{got} is no address of a cluster; give {known}")
    try:
        with socket.create_connection((place.hostname, place.port), ANSWER_S) as server:
            server.sendall(HELLO[place.scheme])
            server.recv(1)
    except OSError as error:
        why = f"no answer within {ANSWER_S:g} s" if isinstance(error, TimeoutError) else error.strerror or error
        raise UserError(f"{got} can't be reached: {why}; start it, or leave cluster empty") from None
    status, difference, errors = isolated.python(["-m", __name__, address], TASK_S)
    if status != 0:
        why = isolated.why_ended(status, errors, TASK_S)
        raise UserError(f"{got} does not answer: {why}; check address, versions, and that a worker has a free core")
    if difference.strip():
        raise UserError(f"{got}: {difference.strip()}")
    return address


def spark(address: str = "", memory_mib: float = 0.0) -> Any:
    """Return a session of PySpark: on all allowed threads of this machine, or on a cluster (spark:// or sc://).

    memory_mib: heap of a JVM of its own, by default half of what is free now. Workers run the Python of PYSPARK_PYTHON.
    """
    from pyspark.sql import SparkSession

    if address.startswith("sc://"):
        return SparkSession.builder.remote(address).getOrCreate()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    options = {
        **({} if address else {"spark.driver.host": "127.0.0.1"}),
        "spark.driver.memory": f"{int(memory_mib or max(1024, available_mib() / 2))}m",
        "spark.driver.maxResultSize": 0,
        "spark.log.level": "ERROR",
        "spark.sql.adaptive.enabled": True,
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.warehouse.dir": f"{tempfile.gettempdir()}/spark-warehouse",
        **dict.fromkeys(("spark.ui.enabled", "spark.ui.showConsoleProgress"), False),
    }
    builder = SparkSession.builder.master(address or f"local[{allowed_threads()}]").appName("kit")
    session = builder.config(map=options).getOrCreate()
    session.conf.set("spark.sql.shuffle.partitions", _cores(session) if address else allowed_threads())
    return session


def _cores(session: Any) -> int:
    """Return the cores of a cluster's executors, once no more of them have come for two seconds."""
    cores = 0
    while (now := counters(session)["threads"]) == 0 or now > cores:
        cores = now
        time.sleep(2)
    return cores


def counters(session: Any) -> dict[str, int]:
    """Return Spark's own counters so far: jobs, tasks; executors that work, their threads, those that are lost; tables
    held in memory, and partitions of them that are not. Nothing of a session without a JVM (Spark Connect, Sail)."""
    if not hasattr(session, "_jsc"):
        return {}
    context = session.sparkContext._jsc.sc()
    listed, stored = context.statusStore().executorList(False), list(context.getRDDStorageInfo())
    executors = [listed.apply(number) for number in range(listed.size())]
    working = [one for one in executors if one.isActive() and one.totalCores()]
    return {
        "jobs": context.dagScheduler().numTotalJobs(),
        "tasks": sum(one.completedTasks() for one in executors),
        "executors": len(working),
        "threads": sum(one.totalCores() for one in working),
        "local": context.isLocal(),
        "lost": sum(not one.isActive() for one in executors),
        "cached_tables": len(stored),
        "uncached_partitions": sum(one.numPartitions() - one.numCachedPartitions() for one in stored),
    }


def sail() -> Any:
    """Return a session on a Sail server within this process, with all allowed threads."""
    threads = str(allowed_threads())
    os.environ |= {"TOKIO_WORKER_THREADS": threads, "SAIL_EXECUTION__DEFAULT_PARALLELISM": threads}
    from pysail.spark import SparkConnectServer

    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    time.sleep(0.1)  # until its threads have their names
    names = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
    session = spark(f"sc://127.0.0.1:{server.listening_address[1]}")
    session.server, session.threads = server, names.count("tokio-rt-worker") // 2  # as many to read as to compute
    return session


def _versions(task: int = 0) -> dict[str, str]:
    return {"Python": "{}.{}".format(*sys.version_info), "pyspark": version("pyspark")}


def _found(address: str) -> list[dict[str, str]]:
    """Return the versions here, then those of each worker."""
    if address.startswith("tcp://"):
        from distributed import Client

        with Client(address, timeout=ANSWER_S) as client:
            found = client.get_versions(packages=["pyarrow"])
        packages = [one["packages"] for one in (found["client"], *found["workers"].values())]
        return [{**one, "python": ".".join(one["python"].split(".")[:2])} for one in packages]
    session = spark(address)
    if address.startswith("sc://"):
        session.sql("SELECT 1").collect()
        return [{}, {}]  # plans are sent there, no Python
    return [_versions(), *session.sparkContext.parallelize(range(64), 64).map(_versions).collect()]


def main(address: str) -> None:
    """Print what differs on the cluster's workers, as a clause, or nothing."""
    try:
        own, *workers = _found(address)
    except Exception as error:
        other = re.search(r"PYTHON_VERSION_MISMATCH.*?version: ?(\d+\.\d+)", str(error), re.DOTALL)
        own, workers = _versions(), [{"Python": other[1]}] if other else sys.exit(one_line(error)[:200])
    for name, other in [item for one in workers for item in one.items() if own.get(item[0], item[1]) != item[1]][:1]:
        print(f"its workers have {name} {other}, and {own[name]} is here; install the same on both")
    if not workers:
        print("it has no worker; start one")


if __name__ == "__main__":
    main(sys.argv[1])
