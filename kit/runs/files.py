"""Finds what runs left behind, in folders or at URLs, and reads it without trusting it."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import msgspec

from kit.errors import UserError
from kit.record import formatting as fmt
from kit.record import store
from kit.record.document import Record
from kit.record.redaction import told_of
from kit.runs import pytest_benchmark

DEEPEST = 64
LARGEST = 64 * 2**20  # bytes of a status or a notebook
MOST_LOG_LINES = 30
MANY = 60  # records that take seconds to read


@dataclass(frozen=True)
class File:
    """A file that was found: its file system, its path there, its path for people, and its size in bytes."""

    system: Any
    path: str
    shown: str
    size: int

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def folder(self) -> str:
        return str(PurePosixPath(self.path).parent)

    @property
    def run(self) -> str:
        """Path of the run's folder that it belongs to."""
        path = PurePosixPath(self.folder)
        return str(path.parent if path.name == "records" else path)

    def read(self, largest: int = LARGEST) -> bytes:
        """Return the content. Raise UserError if it is larger than `largest` bytes or cannot be read."""
        if self.size > largest:
            raise UserError(f"it has {self.size / 2**20:,.0f} MiB; above {largest / 2**20:,.0f} MiB it is not read")
        try:
            return self.system.cat_file(self.path)
        except Exception as error:  # a file system may raise what it likes
            raise UserError(f"it could not be read: {fmt.shown(error) or type(error).__name__}") from None


@dataclass(frozen=True)
class Found:
    """Everything that the runs hold, by kind; notebooks by the path of their run's folder."""

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
    """How a run ended, by the status in its folder. line: the last of what went wrong; log: its end, by lines."""

    run: str
    folder: str
    state: str
    line: str
    log: list[str]


def find(runs: list[str]) -> Found:
    """Return the files of all runs. Raise UserError for a run that does not exist."""
    found = sorted((file for run in runs for file in _files(run)), key=lambda file: file.path)
    return Found(
        records=[file for file in found if file.name.endswith(".json") and file.name != "status.json"],
        statuses=[file for file in found if file.name == "status.json"],
        notebooks={file.folder: file for file in found if file.name == "notebook.ipynb"},
    )


def _files(run: str) -> Iterator[File]:
    system, root = _open(run)
    top = PurePosixPath(root)
    if system.isfile(root):
        yield _file(system, root, system.info(root), top.name)
        return
    for folder, folders, files in system.walk(root, detail=True):
        for name in [name for name in folders if name.startswith((".", "__")) and name != ".benchmarks"]:
            del folders[name]
        inside = PurePosixPath(folder).relative_to(top)
        for name, info in files.items():
            if info.get("type") == "file" and _wanted(PurePosixPath(folder), inside, name):
                yield _file(system, info["name"], info, str(inside / name))


def _open(run: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        system, root = url_to_fs(run)
        exists = system.exists(root)
    except Exception as error:
        why = fmt.shown(store.clean(told_of(run, error)))
        raise UserError(f"{store.clean(run)}: it can't be opened: {why}") from None
    if not exists:
        raise UserError(f"{store.clean(run)}: there is no such folder, file or URL; `kit run` makes runs, in runs/")
    return system, root.rstrip("/") or "/"


def _file(system: Any, path: str, info: dict, shown: str) -> File:
    return File(system, path, fmt.shown(store.clean(shown), 160), int(info.get("size") or 0))


def _wanted(folder: PurePosixPath, inside: PurePosixPath, name: str) -> bool:
    if name in ("status.json", "notebook.ipynb"):
        return True
    has_records = inside.name in ("", "records") or ".benchmarks" in folder.parts  # where pytest-benchmark saves
    return name.endswith(".json") and name != "progress.json" and has_records


def _records(file: File) -> list[Record]:
    text = file.read(store.LARGEST_BYTES)
    if b'"machine_info"' in text and b'"benchmarks"' in text:
        return pytest_benchmark.records(text, file.name)
    record = store.decode(text, file.name)
    if _depth(record.asked.parameters) > DEEPEST:
        raise UserError(f"its parameters are nested more than {DEEPEST} levels deep")
    return [record]


def read_records(files: list[File], unreadable: list[Unreadable]) -> Iterator[tuple[File, Record]]:
    """Yield each record once (copies are left out); what can't be read goes to `unreadable`, with its reason."""
    if len(files) > MANY:
        print(f"loading {len(files):,} records", file=sys.stderr)
    seen = set()
    for file in files:
        try:
            found = _records(file)
        except UserError as error:
            unreadable.append(Unreadable(file.shown, fmt.shown(error, 400).removeprefix(f"{fmt.shown(file.name)}: ")))
            continue
        for record in found:
            if (copy := (record.id, file.size)) not in seen:
                seen.add(copy)
                yield file, record


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
            status = msgspec.json.decode(file.read(), type=dict)
        except (UserError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            unreadable.append(Unreadable(file.shown, f"it is not a status: {fmt.shown(error)}"))
            continue
        run = fmt.shown("/".join(PurePosixPath(file.folder).parts[-2:]), 100)
        state, line = (fmt.shown(status.get(key) or "", 400) for key in ("state", "error"))
        log = [fmt.shown(text, 300) for text in str(status.get("log") or "").splitlines()[-MOST_LOG_LINES:]]
        found.append(Status(run, file.folder, state[:40] or "unknown", line, [text for text in log if text]))
    return found
