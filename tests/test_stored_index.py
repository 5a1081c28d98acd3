"""The index of stored records: it saves reading them again, and nothing in it is ever believed over the files."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from record_factory import make_record

from kit.errors import UserError
from kit.record import store
from kit.report import table
from kit.stored import choose, gather, index


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache folder of the test's own; an index is kept from the first record on; a clock that ticks fast enough."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "LEAST", 1)
    monkeypatch.setattr(gather, "_TICK_S", 0.1)
    return tmp_path / "cache" / "ml-scaling-kit"


@pytest.fixture
def runs(tmp_path) -> Path:
    """Three records in a folder of runs."""
    for number in range(3):
        put(tmp_path / "runs", f"question {number}", number)
    return tmp_path / "runs"


def put(runs: Path, comparison: str, seed: int = 0) -> Path:
    return settled(store.write(make_record(comparison=comparison, seed=seed), runs / comparison / "k" / "records"))


def settled(path: Path) -> Path:
    """Return the path once its last change lies as far back as an index asks for."""
    while time.time() - path.stat().st_ctime < gather._TICK_S + 0.02:
        time.sleep(0.02)
    return path


def read(runs: Path) -> tuple[list[str], list[str], list[str]]:
    """Return the comparisons that are told, why files are not, and the names of files that were really read."""
    unreadable, opened = [], []
    reading = gather.File.read

    def counting(file, largest):
        opened.append(file.name)
        return reading(file, largest)

    gather.File.read = counting
    try:
        found = list(index.read_records([str(runs)], gather.find([str(runs)]).records, unreadable))
    finally:
        gather.File.read = reading
    return [record.asked.comparison for _, record in found], [bad.reason for bad in unreadable], opened


ALL = ["question 0", "question 1", "question 2"]


def test_what_is_remembered_says_what_the_file_says(runs):
    """From the index come the same rows and the same briefs as from the files, and no file is opened for them."""
    found = gather.find([str(runs)]).records
    fresh = list(gather.read_records(found, []))
    assert len(read(runs)[2]) == 3
    again = list(index.read_records([str(runs)], found, []))
    assert read(runs) == (ALL, [], [])
    for (file, whole), (same, record) in zip(fresh, again, strict=True):
        assert file is same
        assert table.rows(record) == table.rows(whole)
        assert choose.shorten(file, record) == choose.shorten(file, whole)
        assert record.machine == whole.machine and record.points[0].sessions[0].readings == {}


def test_a_changed_an_added_and_a_removed_file_are_seen(runs):
    """What changed is read again, even if its size and its time are what they were; what went is not told."""
    read(runs)
    first, second, _ = sorted(runs.rglob("*.json"))
    before = first.stat()
    first.write_text(first.read_text().replace("question 0", "question 7"))
    os.utime(first, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert first.stat().st_size == before.st_size and first.stat().st_mtime_ns == before.st_mtime_ns
    second.unlink()
    settled(first)
    added = put(runs, "question 9", 9)
    assert read(runs) == (["question 7", "question 2", "question 9"], [], [first.name, added.name])
    assert read(runs) == (["question 7", "question 2", "question 9"], [], [])


def test_a_truncated_and_a_replaced_file_are_seen(runs):
    """A file that lost its end is told as such, and another file renamed over one is read."""
    read(runs)
    first, second, third = sorted(runs.rglob("*.json"))
    os.truncate(first, 1000)
    os.replace(third, second)
    told, reasons, _ = read(runs)
    assert told == ["question 2"] and "not whole JSON" in reasons[0]


def test_a_file_that_changed_just_now_is_not_remembered(runs, monkeypatch):
    """A change within the tick of a file system's clock could not be told from the next one, so it is not relied on."""
    monkeypatch.setattr(gather, "_TICK_S", 1.0)
    settled(max(runs.rglob("*.json"), key=lambda path: path.stat().st_ctime))
    read(runs)
    path = runs / "new" / "k" / "records"
    fresh = store.write(make_record(comparison="new", seed=9), path)
    assert [read(runs)[2], read(runs)[2]] == [[fresh.name], [fresh.name]]
    settled(fresh)
    assert [read(runs)[2], read(runs)[2]] == [[fresh.name], []]


def flip(text: bytes, place: int) -> bytes:
    return text[:place] + bytes([text[place] ^ 0x55]) + text[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"",
        lambda text: text[: len(text) // 2],
        lambda text: text[:-1],
        lambda text: text + b"x",
        lambda text: flip(text, 20),
        lambda text: flip(text, len(text) - 60),
        lambda text: flip(text, len(text) - 20),
        lambda text: flip(text, 3),
        lambda text: text[:12] + b"\x9f" * 2000,
        lambda text: text[:-24] + (2**62).to_bytes(8) + text[-16:],
        lambda text: os.urandom(4096),
    ],
    ids=["empty", "half", "short", "long", "entry", "contents", "length", "head", "deep", "endless", "noise"],
)
def test_a_damaged_index_is_passed_over_and_written_anew(runs, cache, damage):
    """Whatever became of an index, the files are told as they are, and the next report has a whole one again."""
    read(runs)
    (path,) = cache.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert read(runs)[:2] == (ALL, [])
    assert read(runs) == (ALL, [], [])


def crafted(text: bytes, contents: dict) -> bytes:
    """An index whose digests are right, whatever it says."""
    packed = msgspec.msgpack.encode(contents)
    return text[:12] + packed + len(packed).to_bytes(8) + index._digest(packed)


def test_a_crafted_index_is_passed_over(runs, cache):
    """An index of other code, with other types, or pointing outside itself changes nothing that is told."""
    read(runs)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    (file, *_) = gather.find([str(runs)]).records
    place = [file.mark, 2**63, 100, b"0" * 16]
    bomb = [file.mark, -5, -1, index._digest(b"")]
    for contents in (
        {"code": "of another version", "places": {}},
        {"code": index._code(), "places": {index._name(file): ["mark"]}},
        {"code": index._code(), "places": {index._name(file): place}},
        {"code": index._code(), "places": {index._name(file): bomb}},
        {"code": index._code(), "places": [1, 2]},
    ):
        path.write_bytes(crafted(whole, contents))
        assert read(runs)[:2] == (ALL, [])
        assert read(runs) == (ALL, [], [])


def test_an_index_is_the_users_own_file(runs, cache, tmp_path):
    """A link, a folder or a pipe in an index's place is not followed, and does not hang a report."""
    read(runs)
    (path,) = cache.iterdir()
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert len(read(runs)[2]) == 3
    path.unlink()
    os.mkfifo(path)
    assert read(runs)[0] == ALL
    path.unlink()
    path.mkdir()
    assert read(runs)[0] == read(runs)[0] == ALL
    assert path.is_dir() and not [p for p in cache.iterdir() if p != path]


@pytest.mark.parametrize("place", ["/proc/nowhere", "/dev/null/cache"])
def test_without_a_place_for_it_everything_is_read(runs, monkeypatch, place):
    """A user who has no folder to write to gets the same report."""
    monkeypatch.setenv("XDG_CACHE_HOME", place)
    assert read(runs)[0] == read(runs)[0] == ALL
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError()))
    assert read(runs)[0] == ALL


def test_the_runs_themselves_may_be_read_only(runs, cache):
    """Nothing is written beside the runs."""
    before = sorted(runs.rglob("*"))
    folders = [runs, *(path for path in before if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    try:
        assert read(runs)[0] == ALL and read(runs)[2] == []
    finally:
        for path in folders:
            path.chmod(0o755)
    assert sorted(runs.rglob("*")) == before
    (path,) = cache.iterdir()
    assert path.stat().st_mode & 0o077 == 0


REPORT = """
import sys
from kit.stored import gather, index
index.LEAST, gather._TICK_S = 1, 0.1
for _ in range(20):
    found = gather.find([sys.argv[1]]).records
    unreadable = []
    assert len(list(index.read_records([sys.argv[1]], found[: 1 + _ % 3], unreadable))) == 1 + _ % 3
    assert not unreadable
"""


def test_reports_at_once_dont_break_each_other(runs, cache):
    """Reports that read and rewrite one index at the same time all tell everything, and leave one whole index."""
    racers = [subprocess.Popen([sys.executable, "-c", REPORT, str(runs)], stderr=-1, text=True) for _ in range(4)]
    assert [(racer.communicate()[1], racer.returncode) for racer in racers] == [("", 0)] * 4
    assert len(list(cache.iterdir())) == 1
    read(runs)
    assert read(runs) == (ALL, [], [])


def test_what_an_index_cant_hold_is_read_each_time(runs):
    """A number that only JSON can hold costs its record the index, and nothing else."""
    path = next(runs.rglob("*.json"))
    document = json.loads(path.read_bytes())
    document["asked"]["parameters"] = {"seed": 2**70}
    path.write_text(json.dumps(document))
    settled(path)
    assert read(runs)[0] == ALL
    assert read(runs)[:2] == (ALL, []) and read(runs)[2] == [path.name]


def test_old_indexes_go(runs, cache):
    """An index that nobody used for a quarter of a year is removed when another is written."""
    cache.mkdir(parents=True)
    (cache / "index-0123").write_bytes(b"old")
    (cache / "mine").write_bytes(b"another's")
    for path in cache.iterdir():
        os.utime(path, (1, 1))
    read(runs)
    assert not (cache / "index-0123").exists() and (cache / "mine").exists()


def test_few_records_have_no_index(runs, cache, monkeypatch):
    """Where reading takes no time, nothing is kept."""
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    assert read(runs)[0] == ALL and not cache.exists()


def test_what_is_no_record_is_still_refused(runs):
    """A file that is no record is told with its reason each time."""
    (runs / "question 0" / "k" / "records" / "bad.json").write_text("[]")
    for _ in range(2):
        told, reasons, _ = read(runs)
        assert told == ALL and "it is not a record" in reasons[0]
    with pytest.raises(UserError):
        gather.find([str(runs / "nowhere")])
