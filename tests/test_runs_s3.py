"""Runs that are kept at S3: a real server that speaks its protocol, in a process of its own."""

import json
import re
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from batch_project import kit, write_notebook
from record_factory import make_record

from kit.batch import notebooks, plans, runs
from kit.cli import main
from kit.record import store
from kit.runs import files

pytest.importorskip("s3fs", reason="s3fs is not installed: pip install -e '.[s3]'")
pytest.importorskip("moto", reason="moto is not installed: pip install -e '.[test]'")

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTED",
    "AWS_SECRET_ACCESS_KEY": "planted/secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that speaks S3, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = open(tmp_path_factory.mktemp("s3") / "log.txt", "w")  # noqa: SIM115 (as long as the server)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()
    log.close()


@pytest.fixture
def bucket(server, monkeypatch):
    """An empty bucket, with the server and keys as the environment has them."""
    urlopen(Request(f"{server}/moto-api/reset", method="POST")).close()
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": server, "AWS_EC2_METADATA_DISABLED": "true"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    files.mkdir("kept")
    yield files
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def project(tmp_path) -> Path:
    """A notebook that counts its executions and leaves a record, and prints what it should not."""
    record = store.write(make_record(), tmp_path / "made")
    code = f"""
import os, shutil
open("../executed.txt", "a").write("x")
shutil.copytree({str(record.parent)!r}, os.environ["KIT_RUN"] + "/records")
print(os.environ["AWS_SECRET_ACCESS_KEY"], "s3://AKIAURL:password@kept/data")
"""
    write_notebook(tmp_path / "notebooks" / "01_found.ipynb", code)
    return tmp_path


def test_a_batch_is_kept_at_s3_and_read_from_there(project, bucket):
    """A run is uploaded whole and skipped the second time; report reads it there; no secret is in what is kept."""
    first = kit(project, "run", "01", "--runs", "s3://kept/runs")
    assert first.returncode == 0 and "uploading the run to s3://" in first.stderr, first.stdout + first.stderr
    files = {path.partition("/01_found/")[2]: path for path in bucket.find("kept")}
    (key,) = {name.partition("/")[0] for name in files}
    names = sorted(name.partition("/")[2] for name in files)
    assert [re.sub(r"-.*(?=\.json)", "", name) for name in names] == [
        "log.txt", "notebook.ipynb", "records/delays.json", "status.json",
    ]  # fmt: skip
    assert json.loads(bucket.cat(files[f"{key}/status.json"]))["state"] == "finished"
    kept = b"".join(bucket.cat(list(files.values())).values()).decode()
    for secret in ("planted/secret", "password@"):
        assert secret not in kept + first.stdout + first.stderr
    again = kit(project, "run", "01", "--runs", "s3://kept/runs")
    assert again.returncode == 0 and "01_found: skipped: finished" in again.stderr, again.stderr
    assert (project / "executed.txt").read_text() == "x"
    told = kit(project, "report", "s3://kept/runs", "-o", "page")
    assert told.returncode == 0, told.stderr
    assert "Polars" in (project / "page" / "report.md").read_text()
    assert [path.name for path in (project / "home" / "tmp").iterdir() if path.name.startswith("kit-run")] == []


CLAIM = """
import sys
from pathlib import Path
from kit.batch import notebooks, plans, runs
from kit.cli import main
run = plans.Run(notebooks.read(Path(sys.argv[1])), {}, {})
place = runs.at("s3://kept/runs")
place.attempts("01_found", "key")
print("ready", flush=True)
sys.stdin.read()
print(place.claim(run, "key", 1) is not None)
"""


def test_a_folder_at_s3_is_claimed_once(project, bucket):
    """Of processes that want the same folder at once, one gets it: the server decides, by If-None-Match."""
    command = [sys.executable, "-c", CLAIM, str(project / "notebooks" / "01_found.ipynb")]
    racers = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True) for _ in range(3)]
    assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 3
    for racer in racers:
        racer.stdin.close()
    assert sorted(racer.stdout.read().strip() for racer in racers) == ["False", "False", "True"]
    assert [racer.wait() for racer in racers] == [0, 0, 0]


@pytest.fixture
def claimed(project, bucket, monkeypatch):
    """A run at S3 that has been claimed, its place, and its key."""
    monkeypatch.chdir(project)
    run = plans.Run(notebooks.read(project / "notebooks" / "01_found.ipynb"), {}, {})
    place = runs.at("s3://kept/runs")
    return run, place, place.claim(run, runs.key(run), 1)


def test_an_upload_that_breaks_off_is_no_finished_run(claimed, bucket, monkeypatch):
    """Whatever was uploaded until then, the run is not finished, stands here still, and the next attempt has its own
    folder."""
    run, place, claim = claimed
    (claim.folder / "records").mkdir()
    store.write(make_record(), claim.folder / "records")
    sent, put = [], place.files.put_file

    def breaks_off(here, there):
        if len(sent) == 2:
            raise ConnectionError("the network is gone")
        sent.append(there)
        put(here, there)

    monkeypatch.setattr(place.files, "put_file", breaks_off)
    with pytest.raises(ConnectionError):
        place.keep(claim, state="finished")
    assert len(sent) == 2 and (claim.folder / "status.json").exists()
    assert [a.status.state for a in place.attempts("01_found", runs.key(run))] == ["running"]
    statuses = files.read_statuses(files.find(["s3://kept/runs"]).statuses, [])
    assert [status.state for status in statuses] == ["running"]
    assert place.claim(run, runs.key(run), 1) is None
    assert place.claim(run, runs.key(run), 2).kept == f"{claim.kept}.2"


def check_keys(server: str, calls: str) -> None:
    """Have the server look at keys after so many calls."""
    plain = {"Content-Type": "text/plain"}
    urlopen(Request(f"{server}/moto-api/reset-auth", data=calls.encode(), headers=plain, method="POST")).close()


@pytest.mark.parametrize("command", [("run", "01", "--runs"), ("report",)], ids=["run", "report"])
@pytest.mark.parametrize("wrong", ["bucket", "endpoint", "no keys", "keys", "address"])
def test_what_s3_refuses_is_one_sentence(project, bucket, server, monkeypatch, capsys, command, wrong):
    """A bucket, an endpoint or keys that are wrong are told in one sentence, without a secret, and nothing is made."""
    url = {"bucket": "s3://nowhere/runs", "address": "s3://AKIAURL:pass/word@kept/runs"}.get(wrong, "s3://kept/runs")
    monkeypatch.chdir(project)
    with monkeypatch.context() as changed:
        if wrong == "endpoint":
            changed.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        for name in KEYS if wrong == "no keys" else ():
            changed.delenv(name)
        type(bucket).clear_instance_cache()
        check_keys(server, "0" if wrong == "keys" else "inf")
        status = main([*command, url])
    check_keys(server, "inf")
    said = capsys.readouterr().err
    assert status == 2 and said.startswith("kit: ") and len(said.splitlines()) == 1, said
    assert not [secret for secret in ("planted/secret", "AKIAURL", "pass/word") if secret in said]
    assert not (project / "executed.txt").exists() and not bucket.exists("nowhere")


def test_a_secret_parameter_is_masked_at_s3(claimed, bucket):
    """Credentials in a parameter are masked in the status that is uploaded."""
    run, place, _ = claimed
    claim = place.claim(replace(run, values={"data": "s3://key:secret@bucket/x"}), "other", 1)
    assert b"secret" not in bucket.cat(f"{claim.kept}/status.json")
