"""Does MLPerf's LoadGen agree with the kit's capacity? Its Server scenario runs on the same server.

The kit searches the capacity; LoadGen, which has its own arrivals, client and clock, then runs at a rate below the
interval, where its result should be VALID, and at one above, where it should be INVALID. Without --url both see a
server that answers one request after the other, each in 10 ms.

    pip install mlcommons-loadgen
    python benchmarks/loadgen_witness.py --url http://127.0.0.1:8000/predict --body request.json --bound-ms 50
"""

import argparse
import contextlib
import http.client
import re
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from kit.common import load
from kit.common.services import Service

QUEUE = """
import asyncio, sys
async def answer(reader, writer):
    while head := await reader.readuntil(b"\\r\\n\\r\\n"):
        length = int(head.lower().split(b"content-length:")[1].split()[0])
        await reader.readexactly(length)
        async with one: await asyncio.sleep(float(sys.argv[2]))
        writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nok")
async def main():
    global one
    one = asyncio.Lock()
    async with await asyncio.start_server(answer, "127.0.0.1", int(sys.argv[1])) as server: await server.serve_forever()
asyncio.run(main())
"""
"""A server with one place of service, and the time that each request holds it as its second argument."""


@dataclass(frozen=True)
class Witness:
    """LoadGen's own summary of one run: requests per second that it scheduled, and whether its result is VALID."""

    rate: float
    valid: bool


def queue(service_s: float) -> Service:
    """Return a server, not yet started, that answers one request after the other, each in so many seconds."""
    return Service("the queue", [sys.executable, "-c", QUEUE, "{port}", str(service_s)])


def sender(url: str) -> Callable[[bytes], bytes]:
    """Return a function body → answer, with one keep-alive connection per thread."""
    parts, local = urlsplit(url), threading.local()

    def send(body: bytes) -> bytes:
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        local.connection.request("POST", parts.path or "/", body, {"Content-Type": "application/json"})
        return local.connection.getresponse().read()

    return send


def server_scenario(
    send: Callable[[bytes], bytes], bodies: list[bytes], rate: float, bound_s: float, percentile: float, requests: int
) -> Witness:
    """Run LoadGen's Server scenario: Poisson arrivals at a rate, a percentile of latency within a bound."""
    import mlperf_loadgen as loadgen

    settings = loadgen.TestSettings()
    settings.scenario, settings.mode = loadgen.TestScenario.Server, loadgen.TestMode.PerformanceOnly
    settings.server_target_qps, settings.server_target_latency_ns = rate, round(bound_s * 1e9)
    settings.server_target_latency_percentile = percentile
    settings.min_query_count = settings.max_query_count = requests
    settings.min_duration_ms = 0

    def one(query: int, index: int) -> None:
        send(bodies[index])
        loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(query, 0, 0)])

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(load.CONNECTIONS) as threads:
        logs = loadgen.LogSettings()
        logs.log_output.outdir, logs.enable_trace = folder, False
        issue = lambda samples: [threads.submit(one, sample.id, sample.index) for sample in samples] and None  # noqa: E731
        sut = loadgen.ConstructSUT(issue, lambda: None)
        library = loadgen.ConstructQSL(len(bodies), len(bodies), lambda _: None, lambda _: None)
        loadgen.StartTestWithLogSettings(sut, library, settings, logs)
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(sut)
        summary = (Path(folder) / "mlperf_log_summary.txt").read_text()
    scheduled = re.search(r"Scheduled samples per second : ([\d.]+)", summary)
    return Witness(float(scheduled[1]), "Result is : VALID" in summary)


def agree(url: str, bodies: list[bytes], bound_s: float, percentile: float, apart: float):
    """Return the kit's capacity, and LoadGen's results at a rate `apart` times below and at one as far above it."""
    peak = load.closed(url, bodies, 200, connections=8).answered_rate
    at = lambda rate, requests, seed: load.offer(url, bodies, rate, requests, seed=seed)  # noqa: E731
    found = load.capacity(at, bound_s, peak / 4, peak * 2, percentile=percentile)
    requests = load.least_requests(4, percentile)
    if not found.lower:
        raise SystemExit(f"no rate of at least {peak / 4:.0f}/s holds; give a larger --bound-ms")
    rates = [found.lower / apart, min(found.upper, peak * 2) * apart]
    return found, [server_scenario(sender(url), bodies, rate, bound_s, percentile, requests) for rate in rates]


def main() -> int:
    """Print the kit's interval and LoadGen's two results; return 0 if they agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url")
    parser.add_argument("--body", type=Path, help="file with one request's body")
    parser.add_argument("--bound-ms", type=float, default=100)
    parser.add_argument("--percentile", type=float, default=0.99)
    parser.add_argument("--apart", type=float, default=1.25, help="how far LoadGen's rates are from the interval")
    options = parser.parse_args()
    bodies = [options.body.read_bytes() if options.body else b"{}"]
    with contextlib.nullcontext() if options.url else queue(0.01) as server:
        url = options.url or f"http://127.0.0.1:{server.start().port}/"
        found, (below, above) = agree(url, bodies, options.bound_ms / 1e3, options.percentile, options.apart)
    print(f"kit: p{100 * options.percentile:g} holds at {found.lower:.1f}/s, not at {found.upper:.1f}/s")
    for one in (below, above):
        print(f"LoadGen at {one.rate:.1f}/s: {'VALID' if one.valid else 'INVALID'}")
    return int(not (below.valid and not above.valid))


if __name__ == "__main__":
    sys.exit(main())
