"""Storage: servers that check signatures, layouts whole or absent, what a read costs, each user's error."""

import asyncio
import queue
import shutil
import socket
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kit.common import datasets
from kit.errors import UserError
from kit.techniques.storage import layouts, link, servers

pytest.importorskip("s3fs", reason="s3fs is not installed: pip install -e '.[storage]'")
pytest.importorskip("obstore", reason="obstore is not installed: pip install -e '.[storage]'")


def needs_rclone() -> None:
    if not any(map(shutil.which, (servers.PROGRAM, "rclone"))):
        pytest.skip("rclone is not installed: pip install -e '.[storage]'")


PLANTED = "PLANTEDKEY12:planted%2Fsecret1234"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a bucket of one Parquet file, some 600 kB that no codec makes smaller."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "kit").mkdir()
    noise = pa.array([hash((n, "noise")) for n in range(80_000)], pa.int64())
    pq.write_table(pa.table({"noise": noise}), folder / "kit/part.parquet", compression="none")
    return folder


@pytest.fixture(scope="module")
def server(folder):
    """A private server."""
    needs_rclone()
    with servers.Server(folder).start() as server:
        yield server


def whole(bucket: servers.Bucket) -> bytes:
    return bucket.s3fs().cat_file(bucket.path("part.parquet"))


def test_the_server_counts_requests_and_bytes(server, folder):
    """GETs and LISTs are those of its own log, and the bytes sent those of its process, within 1 %."""
    size = (folder / "kit/part.parquet").stat().st_size
    _, found = servers.counted(server.bucket("kit"), lambda: whole(server.bucket("kit")))
    assert (found["gets"], found["lists"]) == (1, 0)
    assert size <= found["sent_mib"] * 2**20 <= 1.01 * size
    _, found = servers.counted(server.bucket("kit"), lambda: server.bucket("kit").s3fs().ls("kit"))
    assert (found["gets"], found["lists"]) == (0, 1) and found["sent_mib"] < 0.01


def test_a_new_file_is_seen(server, folder):
    """The server keeps what it knows of folders between reads, and forgets it when a bucket is asked for."""
    for name in ("new", "newer"):
        (folder / name).mkdir()
        (folder / name / "file").touch()
        assert server.bucket(name).s3fs().ls(name) == [f"{name}/file"]


def delayed(port: int, rtt_s: float) -> int:
    """Return the port of a proxy that passes on what comes half a round trip later, in each direction."""
    ports = queue.Queue()

    async def pump(reader, writer):
        while data := await reader.read(1 << 16):
            asyncio.get_running_loop().call_later(rtt_s / 2, writer.write, data)

    async def connected(reader, writer):
        there = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

    async def serve():
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        ports.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
    return ports.get()


def test_delay_is_as_modelled(server):
    """A proxy that delays makes the read of one file longer by a round trip per request that the server counted."""
    read_s = []
    for rtt_s in (0, 0.1):
        bucket = replace(server.bucket("kit"), endpoint=f"http://127.0.0.1:{delayed(server.port, rtt_s)}")
        read = partial(pq.read_table, "kit", filesystem=bucket.pyarrow())
        costs = [servers.counted(bucket, read)[1] for _ in range(4)]
        read_s.append(min(cost["read_s"] for cost in costs))
    requests = sum(costs[-1][kind] for kind in ("gets", "lists", "heads"))
    assert 0.8 < (read_s[1] - read_s[0]) / link.transfer_s(0, requests, 1, rtt_ms=100) < 1.3


@pytest.mark.parametrize("client", ["pyarrow", "s3fs", "obstore"])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"secret": "planted-secret-1234"}, "the server refuses the key or its secret; give those"),
        ({"key": "PLANTEDKEY12"}, "the server refuses the key or its secret; give those"),
        ({"name": "nobucket"}, "no such (bucket; create it|object; check the prefix)"),
        ({"endpoint": "http://127.0.0.1:1"}, "the server does not answer, or stopped during the request; start it"),
    ],
)
def test_a_fault_is_one_sentence(server, client, change, sentence):
    """A wrong key, a bucket that is not there and a server that does not answer: each with its remedy, in each client,
    and never with the credentials."""
    bucket = replace(server.bucket("kit"), **change)
    with pytest.raises(UserError, match=sentence) as raised, bucket.reached("part.parquet"):
        if client == "pyarrow":
            bucket.pyarrow().open_input_file(bucket.path("part.parquet")).read()
        elif client == "s3fs":
            whole(bucket)
        else:
            bucket.obstore().get("part.parquet").bytes()
    shown = str(raised.value)
    assert not [hidden for hidden in ("planted", bucket.key, bucket.secret) if hidden in shown] and ". " not in shown


def test_an_address_names_its_parts():
    """Keys, bucket, prefix and endpoint come from one address, and its text shows no credentials."""
    bucket = servers.at(f"s3://{PLANTED}@mine/a/b/?endpoint=http://127.0.0.1:9000/&region=eu-west-3")
    assert (bucket.name, bucket.prefix, bucket.endpoint) == ("mine", "a/b", "http://127.0.0.1:9000")
    assert (bucket.key, bucket.secret, bucket.region) == ("PLANTEDKEY12", "planted/secret1234", "eu-west-3")
    assert bucket.path("d") == "mine/a/b/d"
    assert "PLANTED" not in repr(bucket) and "planted" not in repr(bucket)


@pytest.mark.parametrize("url", [f"http://{PLANTED}@host/x", f"s3://{PLANTED}@", f"s3://{PLANTED}@b?endpiont=x", "x"])
def test_another_address_is_refused(url):
    """What is no address of a bucket is refused with an example, and without its credentials."""
    with pytest.raises(UserError) as raised:
        servers.at(url)
    assert "PLANTED" not in str(raised.value) and "planted" not in str(raised.value)


def test_keys_are_not_on_the_command_line(server):
    """Other users of the machine do not see the private server's keys."""
    command = Path(f"/proc/{server.pid}/cmdline")
    if not command.exists():
        pytest.skip("this system has no /proc")
    assert server.bucket("kit").secret.encode() not in command.read_bytes()


def test_tables_have_days_and_keys():
    """The built-in tables name a column of days, one of keys, and three more; the same rows are written once."""
    flights = layouts.stored("flights 2000")
    assert len(flights.table) == 2_000 and pa.types.is_date32(flights.table["date"].type)
    assert {flights.day, flights.key, *flights.columns} <= set(flights.table.column_names)
    assert layouts.stored("flights 2000").stamp == flights.stamp != layouts.stored("flights 2001").stamp


def test_lineitem_is_generated():
    """TPC-H's lineitem has decimals and dates, and about as many rows as asked for."""
    if not any(map(shutil.which, (datasets.TPCHGEN, "tpchgen-cli"))):
        pytest.skip("tpchgen-cli is not installed: pip install -e '.[storage]'")
    lineitem = layouts.stored("lineitem 6000")
    table = lineitem.table
    assert 5_000 < len(table) < 7_000 and pa.types.is_decimal(table["l_quantity"].type)
    assert {lineitem.day, lineitem.key, *lineitem.columns} <= set(table.column_names)


def test_a_request_is_tried_again():
    """A server that closes each connection is asked several times, and then the failure is one sentence."""
    tries = []
    with socket.create_server(("127.0.0.1", 0)) as closing:
        closing.settimeout(30)
        answering = threading.Thread(target=lambda: [tries.append(closing.accept()[0].close()) for _ in range(3)])
        answering.start()
        endpoint = f"http://127.0.0.1:{closing.getsockname()[1]}"
        bucket = servers.Bucket("kit", "", endpoint, key="A" * 12, secret="B" * 12)
        with pytest.raises(UserError, match="does not answer, or stopped during the request"), bucket.reached():
            bucket.pyarrow().open_input_file("kit/part.parquet")
        answering.join()
    assert len(tries) == servers.ATTEMPTS
