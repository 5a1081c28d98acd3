"""Finds what runs left behind, in folders or at URLs, and reads it without trusting it."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import msgspec

from kit.errors import UserError
from kit.record import store, words
from kit.record.document import Record
from kit.record.masking import told_of
from kit.stored import pytest_json

NOT_RECORDS = ("status.json", "progress.json", "parameters.json", "ceilings.json")
"""Files of a run that are JSON and no record, where a folder of records is named itself."""

DEEPEST = 64
LARGEST_STATUS = 2**20
LARGEST_NOTEBOOK = 64 * 2**20

_TICK_S = 2.0
"""Two changes within it may leave the same time on a file: the coarsest clock of a file system in use."""


@dataclass(frozen=True)
class File:
    """A file that was found: its file system, its path there, its path for people, and its size in bytes.

    mark: as long as it stays the same, so does the content; empty where that can't be told."""

    system: Any
    path: str
    shown: str
    size: int
    mark: str = ""

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def folder(self) -> str:
        return str(PurePosixPath(self.path).parent)

    def read(self, largest: int) -> bytes:
        """Return the content. Raise UserError if it is larger than `largest` bytes or cannot be read."""
        if self.size > largest:
            raise UserError(f"it has {self.size / 2**20:,.0f} MiB; above {largest / 2**20:,.0f} MiB it is not read")
        try:
            return self.system.cat_file(self.path)
        except Exception as error:  # a file system may raise what it likes
            raise UserError(f"it could not be read: {words.shown(error) or type(error).__name__}") from None


@dataclass(frozen=True)
class Found:
    """Everything that the runs hold, by kind; a run is known by the path of its folder."""

    records: list[File]
    statuses: list[File]
    notebooks: dict[str, File]


@dataclass(frozen=True)
class Unreadable:
    """A file that could not be read, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class Status:
    """How a run ended, as its folder says."""

    run: str
    folder: str
    state: str
    line: str
    """The last line of what went wrong."""


def find(runs: list[str]) -> Found:
    """Return the files of all runs, each once. Raise UserError for a run that does not exist."""
    files: dict[tuple[str, str], File] = {}
    for run in runs:
        for file in _files(run):
            files.setdefault((str(file.system.protocol), file.path), file)
    ordered = sorted(files.values(), key=lambda file: file.path)
    return Found(
        records=[file for file in ordered if file.name.endswith(".json") and file.name != "status.json"],
        statuses=[file for file in ordered if file.name == "status.json"],
        notebooks={file.folder: file for file in ordered if file.name == "notebook.ipynb"},
    )


def _files(run: str) -> Iterator[File]:
    system, root = _open(run)
    if system.isfile(root):
        yield _file(system, root, system.info(root), PurePosixPath(root).name)
        return
    for folder, folders, files in system.walk(root, detail=True):
        for name in [name for name in folders if name.startswith((".", "__"))]:
            del folders[name]
        inside = PurePosixPath(folder).relative_to(PurePosixPath(root))
        for name, info in files.items():
            if info.get("type") == "file" and _wanted(inside, name):
                yield _file(system, info["name"], info, str(inside / name))


def _open(run: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        system, root = url_to_fs(run)
        exists = system.exists(root)
    except Exception as error:
        raise UserError(
            f"{store.clean(run)}: it can't be opened: {words.shown(store.clean(told_of(run, error)))}"
        ) from None
    if not exists:
        raise UserError(f"{store.clean(run)}: there is no such folder, file or URL; `kit run` makes runs, in runs/")
    return system, root.rstrip("/") or "/"


def _file(system: Any, path: str, info: dict, shown: str) -> File:
    mark = _mark_here(path) if "file" in system.protocol else _mark_there(info)
    return File(system, path, words.shown(store.clean(shown), 160), int(info.get("size") or 0), mark)


def _mark_here(path: str) -> str:
    """Return what tells a local file from any other and from itself after a change: the time of a change of anything
    about it (ctime) is the system's, and can't be set. A file that changed just now could change again unseen."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    settled = max(found.st_mtime, found.st_ctime) < time.time() - _TICK_S
    parts = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return "-".join(map(str, parts)) if settled else ""


def _mark_there(info: dict) -> str:
    """Return the tag that an object store gives to a content, if it gives a strong one."""
    tag = str(info.get("ETag") or "")
    return "" if not tag or tag.startswith("W/") else f"{tag}-{info.get('size')}"


def _wanted(inside: PurePosixPath, name: str) -> bool:
    if name in ("status.json", "notebook.ipynb"):
        return True
    at_top = inside == PurePosixPath(".")
    return name.endswith(".json") and (inside.name == "records" or (at_top and name not in NOT_RECORDS))


def read_record(file: File) -> tuple[Record, int]:
    """Return the record in a file, and how many bytes it has. Raise UserError if it can't be read."""
    text = file.read(store.LARGEST_BYTES)
    record = store.decode(text, file.name)
    if _depth(record.asked.parameters) > DEEPEST:
        raise UserError(f"its parameters are nested more than {DEEPEST} levels deep")
    return record, len(text)


def read_records(
    files: list[File],
    unreadable: list[Unreadable],
    read: Callable[[File], tuple[Record, int]] = read_record,
) -> Iterator[tuple[File, Record]]:
    """Yield each record once (copies are left out); what can't be read goes to `unreadable`, with its reason."""
    seen = set()
    for file in files:
        try:
            found = [read(file)]
        except UserError as error:
            found = [(record, file.size) for record in foreign(file)]
            if not found:
                reason = words.shown(error, 400).removeprefix(f"{words.shown(file.name)}: ")
                unreadable.append(Unreadable(file.shown, reason))
        for record, size in found:
            if (copy := (record.id, size)) not in seen:
                seen.add(copy)
                yield file, record


def foreign(file: File) -> list[Record]:
    """Return the records in a file of pytest-benchmark; none if it is no such file."""
    try:
        text = file.read(store.LARGEST_BYTES)
        return pytest_json.records(text, file.name) if pytest_json.is_one(text) else []
    except UserError:
        return []


def again(file: File, identity: str) -> Record:
    """Return the record of that id in a file that was read before. Raise UserError if it has gone since."""
    try:
        return read_record(file)[0]
    except UserError:
        for record in foreign(file):
            if record.id == identity:
                return record
        raise


def _depth(value: Any) -> int:
    """Return how deep containers are nested, without recursion, which deep ones would exhaust."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


def read_statuses(files: list[File], unreadable: list[Unreadable]) -> list[Status]:
    """Return how each run ended; a status that can't be read goes to `unreadable`."""
    found = []
    for file in files:
        try:
            said = msgspec.json.decode(file.read(LARGEST_STATUS))
        except (UserError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            unreadable.append(Unreadable(file.shown, f"it is not a status: {words.shown(error)}"))
            continue
        if isinstance(said, dict):
            run = "/".join(PurePosixPath(file.folder).parts[-2:])
            line = _first(said, "error", "last_error", "line", "last_line", "reason", "message")
            state = _first(said, "state", "status") or "unknown"
            found.append(Status(words.shown(run, 100), file.folder, words.shown(state, 40), line))
        else:
            unreadable.append(Unreadable(file.shown, "it is not a status: no JSON object"))
    return found


def _first(said: dict, *keys: str) -> str:
    return next((words.shown(said[key], 400) for key in keys if said.get(key)), "")
