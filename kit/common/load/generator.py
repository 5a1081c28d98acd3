"""The load generator, a process of its own: sends the requests of a plan over HTTP/1.1 and notes when, and the answers.

asyncio's protocol with httptools took 14–19 µs of CPU time per request here; aiohttp took 209–247 µs, and httpx more.
"""

import asyncio
import contextlib
import marshal
import selectors
import socket
import sys
from collections import deque

import httptools

CHECK_INTERVAL_S = 0.02  # between looks for time-outs, and for connections that the server closed


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self, run: "Run") -> None:
        self.run, self.request = run, None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.run.connections.add(self)
        self.run.free(self)

    def send(self, request: int) -> None:
        self.request, self.body, self.parser = request, [], httptools.HttpResponseParser(self)
        self.run.sent_s[request] = self.run.now()
        self.transport.write(self.run.messages[request % len(self.run.messages)])

    def data_received(self, data: bytes) -> None:
        try:
            if self.request is not None:
                self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()  # not HTTP: the request fails in connection_lost

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        self.run.ended(self.request, self.parser.get_status_code(), b"".join(self.body))
        self.request = None
        if not self.parser.should_keep_alive():
            self.transport.close()
        self.run.free(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self.request is not None:
            self.run.ended(self.request, 0, b"")
        self.run.connections.discard(self)


class Run:
    """One load: times in seconds after its start, shape (requests,); NaN for what did not happen."""

    def __init__(self, plan: dict) -> None:
        self.__dict__ |= plan  # due_s, messages, host, port, num_connections, timeout_s, limit_s, closed: see loops.py
        count = len(self.due_s)
        self.dispatched_s, self.sent_s, self.ended_s = ([float("nan")] * count for _ in range(3))
        self.status, self.answers, self.pending = [0] * count, [b""] * count, count
        self.idle: deque[Connection] = deque()
        self.waiting: deque[int] = deque()
        self.connections: set[Connection] = set()

    def now(self) -> float:
        return self.loop.time() - self.start

    def free(self, connection: Connection) -> None:
        """Give a connection the request that waits longest, or let it wait for one."""
        if connection.transport.is_closing():
            return
        if self.waiting:
            connection.send(self.waiting.popleft())
        else:
            self.idle.append(connection)

    def ended(self, request: int, status: int, answer: bytes) -> None:
        self.ended_s[request], self.status[request], self.answers[request] = self.now(), status, answer
        self.pending -= 1

    async def connect(self) -> None:
        while len(self.connections) < self.num_connections:
            await self.loop.create_connection(lambda: Connection(self), self.host, self.port)

    async def watch(self) -> None:
        """End what has waited too long; replace the connections that are gone."""
        while self.pending:
            await asyncio.sleep(CHECK_INTERVAL_S)
            for connection in [one for one in self.connections if one.request is not None]:
                if self.late(connection.request):
                    connection.transport.abort()
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(self.connect(), self.timeout_s)
            while self.waiting and (not self.connections or self.late(self.waiting[0])):
                self.ended(self.waiting.popleft(), 0, b"")  # as a client that is refused, and does not retry

    def late(self, request: int) -> bool:
        """Whether a request has timed out: since it was due, or in a closed loop since it was sent."""
        since = self.sent_s[request] if self.closed else self.due_s[request]
        return self.now() - since > self.timeout_s or self.now() > self.limit_s

    async def execute(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.start = self.loop.time()
        await self.connect()
        self.start = self.loop.time()
        watching = asyncio.ensure_future(self.watch())
        for request, due in enumerate(self.due_s):
            while (early := due - self.now()) > 0:
                await asyncio.sleep(early)
            self.dispatched_s[request] = self.now()
            self.waiting.append(request)
            while self.idle and self.waiting:
                self.free(self.idle.popleft())
        await watching
        for connection in self.connections:
            connection.transport.abort()


def executed(plan: bytes) -> bytes:
    """Return what came of a plan, or why nothing was sent."""
    run = Run(marshal.loads(plan))
    # select() waits to the microsecond; epoll waits whole milliseconds, which would be added to each latency.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        try:
            runner.run(run.execute())
        except OSError as error:
            return marshal.dumps(error.strerror or str(error))
    return marshal.dumps({key: vars(run)[key] for key in ("dispatched_s", "sent_s", "ended_s", "status", "answers")})


def serve(port: int) -> None:
    """Execute the plan that comes by each connection to this port of 127.0.0.1, after the token of standard input."""
    token = sys.stdin.buffer.read()
    with socket.create_server(("127.0.0.1", port)) as server:
        while True:
            with server.accept()[0] as client, client.makefile("rwb") as stream:
                if (plan := stream.read()).startswith(token):
                    stream.write(executed(plan.removeprefix(token)))


if __name__ == "__main__":
    serve(int(sys.argv[1]))
