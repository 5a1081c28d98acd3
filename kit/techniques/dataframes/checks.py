"""Equal tables, where the check names the rule that was not followed, and proofs that an engine ran as it should."""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from kit.machine.fingerprint import allowed_threads
from kit.measure import answers
from kit.measure.work import fell_back, verified
from kit.record.document import CheckResult, ExecutionProof
from kit.techniques.dataframes import clusters

KEYS = "a missing key is a group of its own, and joins with nothing"
DIVISION = "integers divide to fractions"
SCALE = "a decimal keeps all of its digits"


def equal(answer: Any, reference: Any) -> CheckResult:
    """Compare two tables as `kit.measure.answers.equal` does; where they differ, add the rule that was not followed."""
    found = answers.equal(answer, reference)
    rule = _rule(answer, reference) if found.state == "failed" and hasattr(answer, "schema") else ""
    return replace(found, note=f"{found.note}; the rule: {rule}") if rule else found


def _rule(answer: Any, reference: Any) -> str:
    """Return the rule that explains the difference of two tables, or nothing."""
    import numpy as np
    import pyarrow as pa

    for name in set(answer.column_names) & set(reference.column_names):
        got, expected = answer[name], reference[name]
        decimal, number = pa.types.is_decimal(got.type), pa.types.is_floating(expected.type)
        if more := answer.num_rows - reference.num_rows:
            if not number and more == got.null_count - expected.null_count:
                return KEYS
        elif (decimal or pa.types.is_integer(got.type)) and (number or pa.types.is_decimal(expected.type)):
            digits = 10**got.type.scale if decimal else 1
            cut, full = (digits * np.sort(column.cast("double").to_numpy()) for column in (got, expected))
            same = partial(np.allclose, cut, rtol=1e-9, atol=1e-6, equal_nan=True)
            if not same(full) and any(same(less(full)) for less in (np.trunc, np.floor, np.round)):
                return SCALE if decimal else DIVISION
    return ""


def threads_engaged(threads: int, **facts: Any) -> ExecutionProof:
    """Return whether an engine had the threads that it may have."""
    if threads != allowed_threads():
        return fell_back(f"{threads} threads instead of the {allowed_threads()} allowed", threads=threads, **facts)
    return verified(threads=threads, **facts)


def spark_proof(session: Any) -> Callable[[int], ExecutionProof]:
    """Return the proof of a number of calls from now on: by Spark's counters, which a server of Spark Connect does not
    show, or by Sail's threads."""
    before = clusters.counters(session)

    def proof(calls: int) -> ExecutionProof:
        if threads := getattr(session, "threads", 0):
            facts = {"version": version("pysail"), "calls": calls, "tables": "read in each query"}
            jvm = "libjvm" in Path("/proc/self/maps").read_text()
            return fell_back("Spark's JVM", **facts) if jvm else threads_engaged(threads, **facts)
        facts = {"version": session.version, "calls": calls}
        if not before:
            return ExecutionProof(state="unverified", facts=facts, note="Spark Connect shows no counters")
        return spark_engaged(before, clusters.counters(session), **facts)

    return proof


def spark_engaged(before: dict[str, int], now: dict[str, int], **facts: Any) -> ExecutionProof:
    """Judge by Spark's own counters, once warm and now: each call ran a job, on the executors that were there, and its
    tables are the only relations that are cached. The driver is the only executor on this machine: has it all threads?
    """
    facts |= {name: now[name] - before[name] for name in ("jobs", "tasks")}
    facts |= {name: now[name] for name in ("executors", "cached_tables")}
    if min(facts["jobs"], facts["tasks"]) < facts["calls"]:
        return fell_back(f"cached answers: {facts['jobs']} jobs for {facts['calls']} calls", **facts)
    if now["lost"] or now["executors"] != before["executors"]:
        return fell_back(f"{now['executors']} of {before['executors']} executors, {now['lost']} lost", **facts)
    if now["cached_tables"] != before["cached_tables"] or now["uncached_partitions"]:
        return fell_back(f"tables of which {now['uncached_partitions']} partitions are not in memory", **facts)
    return (threads_engaged if now["local"] else verified)(threads=now["threads"], **facts)


def cudf_pandas_engaged(calls: dict[str, dict[str, list[float]]], **facts: Any) -> ExecutionProof:
    """Judge by the profiler's seconds of each call: function → {"gpu": […], "cpu": […]}."""
    fast, slow = (sum(len(seconds.get(where, ())) for seconds in calls.values()) for where in ("gpu", "cpu"))
    facts |= {"calls_on_gpu": fast, "fallbacks": slow}
    if fast and not slow:
        return verified(**facts)
    names = sorted(name for name, seconds in calls.items() if seconds.get("cpu"))
    return fell_back(f"pandas on the CPU in {', '.join(names) or 'everything'}", **facts)
