"""Batches are equal in each format and storage, waiting is put down to its cause, and checkpoints are complete."""

import base64
import dataclasses
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from kit.common import services
from kit.errors import UserError
from kit.machine.capabilities import Missing
from kit.techniques.storage import checkpoint, figures, link, servers, training

ROWS, BATCH = 64, 32
TABLE = pa.table({
    "count": pa.array(range(ROWS), pa.int32()),
    "delay": pa.array([None if row % 7 == 0 else row / 4 for row in range(ROWS)]),
    "name": ["LGA"] * ROWS,
})  # fmt: skip
EXPECTED = np.column_stack([np.arange(ROWS), [np.nan if row % 7 == 0 else row / 4 for row in range(ROWS)]])


def written(folder: Path) -> Path:
    assert training.write(TABLE, BATCH, list(training.FORMATS), folder) == ROWS // BATCH
    return folder


def read(fetch: training.Fetch, name: str) -> np.ndarray:
    return np.concatenate([training.read(fetch, name, number)[0] for number in range(ROWS // BATCH)])


@pytest.mark.parametrize("name", training.FORMATS)
def test_a_batch_is_the_same_in_each_format(name, tmp_path):
    """Numbers become float32, null becomes NaN, texts are left out; order and rows are those of the table."""
    found = read(training.from_folder(written(tmp_path)), name)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, EXPECTED.astype(np.float32))


def test_s3_and_the_link_hold_the_same_bytes(tmp_path):
    """The server sends each batch as it was written, also within a namespace, where nobody from outside reaches it."""
    written(tmp_path / "kit")
    with servers.Server(tmp_path).start() as server:
        fetch = training.from_bucket(server.bucket("kit"))
        np.testing.assert_array_equal(read(fetch, "npy, small files"), EXPECTED.astype(np.float32))
        with pytest.raises(UserError, match="no such object"):
            fetch("nothing")
    if link.shaping_permitted() is True:
        with servers.Server(tmp_path, 100).start() as server:
            found = link.within("", lambda: read(training.from_bucket(server.bucket("kit")), "Parquet Snappy"))
            np.testing.assert_array_equal(found, EXPECTED.astype(np.float32))
            assert not services.listens(server.port)


def azurite(tmp_path: Path) -> tuple[services.Service, str]:
    """Return Azure's emulator with an account of its own, and the connection string that adlfs takes."""
    if not shutil.which("azurite-blob"):
        pytest.skip("azurite is not installed; npm install -g azurite")
    pytest.importorskip("adlfs")
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    command = "azurite-blob --blobHost 127.0.0.1 --blobPort {port} --skipApiVersionCheck --disableTelemetry --silent"
    service = services.Service("azurite", command.split(), environment={"AZURITE_ACCOUNTS": f"kit:{key}"})
    return service, f"AccountName=kit;AccountKey={key};BlobEndpoint=http://127.0.0.1:{service.port}/kit;"


def test_azure_holds_the_same_bytes(tmp_path, monkeypatch):
    """Azure's emulator, which checks signatures, gives back what was uploaded; a wrong key is one sentence."""
    written(tmp_path)
    service, connection = azurite(tmp_path)
    with service.start():
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
        training.file_system("az://kit")[0].mkdir("kit")
        training.upload(tmp_path, "az://kit/data")
        found = read(training.from_url("az://kit/data"), "Parquet zstd")
        np.testing.assert_array_equal(found, EXPECTED.astype(np.float32))
        other = connection.replace("AccountKey=", "AccountKey=AAAA")
        fsspec.get_filesystem_class("az").clear_instance_cache()
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", other)
        with pytest.raises(UserError, match=r"az://kit/data can't be read: .* signature\.$"):
            training.from_url("az://kit/data")(training.keys("npy", 0)[0])


@pytest.mark.skipif("KIT_HDFS_URL" not in os.environ, reason="KIT_HDFS_URL is not set: docs/techniques/storage.md")
def test_hdfs_holds_the_same_bytes(tmp_path):
    """A real NameNode and its DataNodes give back what was uploaded."""
    url = f"{os.environ['KIT_HDFS_URL']}/kit-{secrets.token_hex(4)}"
    training.upload(written(tmp_path), url)
    np.testing.assert_array_equal(read(training.from_url(url), "Parquet Snappy"), EXPECTED.astype(np.float32))


@pytest.mark.parametrize(
    ("url", "message"),
    [("zz://user:secret@bucket", r"zz://\*\*\*@bucket can't be read"), ("s3://", "is no address of a bucket"),
     ("hdfs://127.0.0.1:1/x", "hdfs://127.0.0.1:1/x can't be read")],
)  # fmt: skip
def test_an_address_that_cannot_be_used_is_one_sentence(url, message):
    """It has the address without credentials, and the reason."""
    if url.startswith("hdfs"):
        pytest.importorskip("hdfs_native")
    with pytest.raises(UserError, match=message) as raised:
        training.from_url(url)("key")
    assert "secret" not in str(raised.value)


def test_an_impossible_table_format_or_size_is_refused():
    """One sentence each."""
    with pytest.raises(UserError, match="no column of numbers, only name"):
        training.write(TABLE.select(["name"]), BATCH, ["npy"], Path())
    with pytest.raises(UserError, match="batch=65 is not allowed"):
        training.write(TABLE, 65, ["npy"], Path())
    with pytest.raises(UserError, match="data has 9 rows; give at least 16"):
        training.write(TABLE.slice(0, 9), 16, ["npy"], Path())
    with pytest.raises(UserError, match="formats contains 'npz', which is unknown; did you mean"):
        training.write(TABLE, BATCH, ["npz"], Path())
    with pytest.raises(UserError, match="checkpoint_mib=0 is not allowed; give a number from 1"):
        checkpoint.state(0)
    with pytest.raises(UserError, match="formats has 0 entries"):
        training.write(TABLE, BATCH, [], Path())


@pytest.mark.parametrize(("in_bytes", "in_decoding"), [(0.03, 0.0), (0.0, 0.03)])
def test_a_wait_is_put_down_to_its_cause(in_bytes, in_decoding, monkeypatch):
    """With a slow storage consumers wait for bytes, and with a slow decoder for decoding, whatever the utilisation."""
    decode = (None, lambda content: (time.sleep(in_decoding), np.zeros((1, 1), np.float32))[1], 1)
    monkeypatch.setitem(training.FORMATS, "slow", decode)
    found = training.feed(lambda key: time.sleep(in_bytes), "slow", 8, consumers=2, step_s=0.003).metrics
    used, on_bytes, on_decoding = (found[name] for name in training.SHARES)
    assert used < training.FED and used + on_bytes + on_decoding == pytest.approx(1, abs=0.2)
    assert (on_bytes > 5 * on_decoding) if in_bytes else (on_decoding > 5 * on_bytes)


def test_what_a_reader_meets_reaches_the_caller(tmp_path):
    """A file that is missing is the variant's failure, and no batch is left out."""
    with pytest.raises(FileNotFoundError):
        training.feed(training.from_folder(tmp_path), "npy", 8, consumers=2, step_s=0.001)


def test_a_storage_that_is_missing_has_its_reason(tmp_path, monkeypatch):
    """Without permission there is no link: the others are there, an unknown one is refused."""
    monkeypatch.setattr(link, "shaping_permitted", lambda: Missing("not permitted", "ask"))
    written(tmp_path / "kit")
    with ExitStack() as opened:
        found, missing = training.storages(opened, tmp_path / "kit", ["S3", "memory", training.OVER_LINK], 100, "")
        assert missing == {training.OVER_LINK: "not permitted; ask"}
        for name in ("S3", "memory"):
            np.testing.assert_array_equal(read(found[name].opened(), "npy"), EXPECTED.astype(np.float32))
        with pytest.raises(UserError, match="storages contains 'tape'"):
            training.storages(opened, tmp_path / "kit", ["tape"], 100, "")


def test_bytes_from_memory_are_no_proof_of_a_disk(tmp_path):
    """Files of a memory file system are found out by the kernel's counter of disk reads."""
    if not os.path.isdir("/dev/shm"):
        pytest.skip("this system has no file system in memory")
    folder = Path("/dev/shm", f"kit-test-{os.getpid()}")
    try:
        written(folder)
        opened = partial(training.from_folder, folder)
        setup = training.fed("npy", 2, 0.001, training.Storage(opened, cold=folder))(1)
        assert setup.execution_proof().state == "fell back"
        setup = training.fed("npy", 2, 0.001, training.Storage(opened))(1)
        assert setup.execution_proof().state == "verified"
    finally:
        shutil.rmtree(folder)


def test_the_servers_counter_is_the_proof_of_s3(tmp_path):
    """The server's process has written at least the bytes that came; another process has not."""
    written(tmp_path / "kit")
    idle = services.Service("idle", ["sleep", "60"], ready=lambda port: True)
    with servers.Server(tmp_path).start() as server, idle.start():
        bucket = server.bucket("kit")
        opened = partial(training.from_bucket, bucket)
        for pid, state in ((bucket.pid, "verified"), (idle.pid, "fell back")):
            storage = training.Storage(opened, served=dataclasses.replace(bucket, pid=pid))
            proof = training.fed("npy", 2, 0.001, storage)(1).execution_proof()
            assert proof.state == state and proof.facts["GETs"] == 2


def result(utilisation: dict[int, float]) -> SimpleNamespace:
    points = []
    for size, value in utilisation.items():
        metrics = {name: [share] * 8 for name, share in zip(training.SHARES, (value, 0.1, 0.2), strict=True)}
        session = SimpleNamespace(measurements={"npy, S3": SimpleNamespace(metrics=metrics)})
        points.append(SimpleNamespace(size=size, sessions=[session]))
    return type("Result", (dict,), {"record": SimpleNamespace(points=points)})({"npy, S3": None})


@pytest.mark.parametrize(
    ("utilisation", "fed", "cause"),
    [({1: 0.95, 4: 0.92}, ["95 % ✓", "92 % ✓"], "–"), ({1: 0.95, 4: 0.5}, ["95 % ✓", "50 % ✗"], "decoding"),
     ({1: 0.4, 4: 0.3}, ["40 % ✗", "30 % ✗"], "decoding"), ({1: 0.9, 4: 0.5}, ["90 % ?", "50 % ✗"], "decoding")],
)  # fmt: skip
def test_consumers_are_fed_above_the_bound(utilisation, fed, cause):
    """Fed, not fed and not decided are marked at each number of consumers; the longer wait is the cause."""
    (row,) = figures.fed(result(utilisation)).rows
    assert row[1:] == [*fed, cause]


def complete(folder: Path) -> list[str]:
    """Return what a reader takes: none of hidden files, as safetensors writes."""
    return sorted(path.name for path in folder.glob("[!.]*") if path.suffix != checkpoint.PARTIAL)


@pytest.mark.parametrize("name", checkpoint.LIBRARIES)
def test_a_checkpoint_is_read_back_equal(name, tmp_path):
    """Each library gives back the same bytes, flushed or not, and leaves one checkpoint and nothing unfinished."""
    expected = training.digest(tensor for _, tensor in sorted(checkpoint.state(2).items()))
    for flush in (True, False):
        setup = checkpoint.on_disk(name, 2, tmp_path, flush=flush)
        found = setup.call()
        assert found.answer() == expected and found.metrics["write_gib_per_s"] > 0
        assert setup.execution_proof().facts["flushed"] is flush
        assert [path.name for path in tmp_path.iterdir()] == complete(tmp_path) != []
        setup.close()
    assert not complete(tmp_path)


WRITER = """
import resource, signal, sys
from pathlib import Path
from kit.techniques.storage import checkpoint
name, folder, how = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 2**20, 3 * 2**20))
if how == "killed":
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
with checkpoint.atomically(Path(folder) / "step-2") as unfinished:
    checkpoint.LIBRARIES[name][0](checkpoint.state(8), unfinished)
"""


@pytest.mark.parametrize(
    ("name", "how"), [*((name, "killed") for name in checkpoint.LIBRARIES), ("torch.save", "full disk")]
)
def test_a_writer_that_ends_half_way_leaves_nothing_to_read(name, how, tmp_path):
    """The kernel kills the writer in the middle of a write, or lets the write fail as a full disk does: the earlier
    checkpoint is what a reader takes, and the next writer is not disturbed."""
    write, read = checkpoint.LIBRARIES[name]
    for step in (1, 2):
        if step == 2:
            command = [sys.executable, "-c", WRITER, name, str(tmp_path), how]
            ended = subprocess.run(command, capture_output=True, text=True)
            assert ended.returncode == (-signal.SIGXFSZ if how == "killed" else 1)
            assert complete(tmp_path) == ["step-1"]
        with checkpoint.atomically(tmp_path / f"step-{step}") as path:
            write(checkpoint.state(step), path)
        assert training.digest(read(tmp_path / f"step-{step}").values())
    assert complete(tmp_path) == ["step-1", "step-2"]
