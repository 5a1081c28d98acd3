"""A server that does nothing but answer: the load generator against it shows how much the generator itself can send."""

import asyncio
import sys

import httptools


class Null(asyncio.Protocol):
    """Answers each request with the same bytes."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport, self.parser = transport, httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


async def serve(port: int) -> None:
    """Answer on this port of 127.0.0.1 until the process ends."""
    await (await asyncio.get_running_loop().create_server(Null, "127.0.0.1", port)).serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
