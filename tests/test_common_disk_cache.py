"""A folder of the disk cache is complete or absent, and written once per key."""

import multiprocessing
import os
import signal
import time

import pytest

from kit.common import disk_cache


def test_a_cached_folder_is_complete_or_absent(tmp_path):
    """A writer that fails leaves nothing, a good folder is written once per key, a damaged one is written again."""
    written = []

    def write(folder):
        written.append(folder)
        (folder / "a").write_text("a")

    def fail(folder):
        (folder / "a").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        disk_cache.folder("table", {"rows": 3}, fail, cache=tmp_path)
    assert not list(tmp_path.iterdir())
    complete = lambda folder: (folder / "a").exists()  # noqa: E731
    first = disk_cache.folder("table", {"rows": 3}, write, complete, cache=tmp_path)
    assert disk_cache.folder("table", {"rows": 3}, write, complete, cache=tmp_path) == first and len(written) == 1
    assert disk_cache.folder("table", {"rows": 4}, write, complete, cache=tmp_path) != first
    (first / "a").unlink()
    disk_cache.folder("table", {"rows": 3}, write, complete, cache=tmp_path)
    assert (first / "a").read_text() == "a" and len(written) == 3


def test_what_killed_writers_left_is_removed_after_a_day(tmp_path):
    """A partial folder of a living writer stays."""
    old, new = tmp_path / ".t.0.partial", tmp_path / ".t.1.partial"
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (0, 0))
    disk_cache.whole_folder(tmp_path / "t", lambda folder: None)
    assert not old.exists() and new.exists()


def make(cache, seconds):
    """Write one file, then take long before the next, as a process does that is killed half-way."""

    def write(folder):
        (folder / "a").write_text("a")
        (cache / "started").touch()
        time.sleep(seconds)
        (folder / "b").write_text("b")

    disk_cache.whole_folder(cache / "t", write)


def writer(cache, seconds):
    """Start a process that writes the folder, and wait until it has written the first file."""
    process = multiprocessing.get_context("spawn").Process(target=make, args=(cache, seconds))
    process.start()
    while not (cache / "started").exists():
        time.sleep(0.01)
    return process


def test_a_killed_writer_leaves_no_folder(tmp_path):
    """What a killed process had half written is never used; the next one writes it again."""
    process = writer(tmp_path, 60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "t").exists()
    make(tmp_path, 0)
    assert (tmp_path / "t" / "b").read_text() == "b"


def test_two_writers_at_once_agree(tmp_path):
    """Both succeed, and one complete copy stays."""
    process = writer(tmp_path, 0.3)
    make(tmp_path, 0.5)
    process.join()
    assert process.exitcode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["started", "t"]
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == ["a", "b"]
