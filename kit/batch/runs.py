"""Keeps runs: one folder an attempt, claimed atomically, never overwritten, here or at any fsspec URL.

runs/<notebook>/<key>/    the first attempt; <key>.2, <key>.3 … stand beside it
    notebook.ipynb        as executed
    ceilings.json         what the machine could do at best
    records/*.json        what it found
    log.txt               what it printed; locked while a process of the run lives
    status.json           `Status`
    alive                 at a URL, while the run lives: when that was last so
"""

import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, Literal
from uuid import uuid4

import msgspec
from fsspec.core import url_to_fs

import kit
from kit.batch.locks import is_locked, lock
from kit.batch.plans import Run
from kit.errors import UserError
from kit.record import words
from kit.record.masking import impersonal, told_of
from kit.record.store import clean, now


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a run: `status.json`."""

    state: Literal["running", "finished", "failed", "cancelled"]
    notebook: str
    parameters: dict[str, Any]
    kit: str
    """Version of the kit, and a hash of the parts of it that measure."""
    machine: str
    """The machine's key, as records have it."""
    started: str
    ended: str | None = None
    seconds: float | None = None
    error: str = ""
    """The last line of what went wrong."""


BEAT_S = 60.0
"""Between two words from a run that is kept at a URL."""

_DEAD_S = 3 * BEAT_S
"""Without a word a run is dead: its batch was killed, or its machine."""

_UNKNOWN = {"notebook": "", "parameters": {}, "kit": "", "machine": "", "started": ""}


@dataclass(frozen=True)
class Attempt:
    """One folder of a run. number: 1, 2, … in the order in which they were claimed."""

    number: int
    folder: str
    status: Status
    alive: bool


@dataclass(frozen=True)
class Claim:
    """A folder that is ours to fill. kept: where it stands in the end. log: open, and locked while the run lives.
    beats: when a URL was told that the run lives, by this process's clock."""

    folder: Path
    kept: str
    status: Status
    log: BinaryIO
    beats: list[float] = field(default_factory=lambda: [time.monotonic()])


@dataclass(frozen=True)
class Runs:
    """Where runs are kept. staged: at a URL, so that a run is executed in a folder here and then uploaded."""

    files: Any
    root: str
    url: str
    staged: bool

    def attempts(self, notebook: str, key: str) -> list[Attempt]:
        """Return what there is of a run, oldest first."""
        with self._asking():
            self.files.invalidate_cache()
            try:
                folders = self.files.ls(f"{self.root}/{notebook}", detail=False)
            except FileNotFoundError:
                self._check_bucket()
                return []
            found = [(number, folder) for folder in folders if (number := _number(folder, key))]
            return [self._attempt(folder, number) for number, folder in sorted(found)]

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn what a file system raises, which may be anything, into a sentence."""
        try:
            yield
        except Exception as error:
            reason = words.shown(clean(told_of(self.url, error)), 400) or type(error).__name__
            raise UserError(f"runs can't be kept at {clean(self.url)}: {reason}") from None

    def _check_bucket(self) -> None:
        """Raise FileNotFoundError if the store's bucket does not exist: it is not ours to make. Folders are."""
        bucket = self.root.partition("/")[0]  # nothing, where paths begin with a slash
        if bucket and not self.files.exists(bucket):
            raise FileNotFoundError(f"there is no bucket {bucket}, or not for you; name one that exists")

    def _attempt(self, folder: str, number: int) -> Attempt:
        status = self._status(folder)
        if not self.staged:
            return Attempt(number, folder, status, is_locked(Path(folder, "log.txt")))
        return Attempt(number, folder, status, status.state == "running" and self._beats(folder, status.started))

    def _beats(self, folder: str, started: str) -> bool:
        """Return whether a run at a URL has said lately that it lives."""
        try:
            said = self.files.cat_file(f"{folder}/alive").decode()
        except OSError:
            said = started
        dead = f"{datetime.now(UTC) - timedelta(seconds=_DEAD_S):%Y-%m-%dT%H:%M:%SZ}"
        return dead < max(said, started)

    def beat(self, claim: Claim) -> None:
        """Say at a URL, once a minute, that a run lives: nobody there can look at its lock."""
        if self.staged and time.monotonic() - claim.beats[-1] > BEAT_S:
            claim.beats[:] = [time.monotonic()]
            with suppress(Exception):  # the network may come back before anybody asks
                self.files.pipe_file(f"{claim.kept}/alive", now().encode())

    def _status(self, folder: str) -> Status:
        try:
            return msgspec.json.decode(self.files.cat_file(f"{folder}/status.json"), type=Status)
        except (OSError, msgspec.DecodeError) as error:
            return Status(state="failed", error=f"status.json can't be read: {error}", **_UNKNOWN)

    def claim(self, run: Run, key: str, number: int, machine: str | None = None) -> Claim | None:
        """Make the folder of an attempt, holding the notebook's source and its status; None if somebody else has it.

        machine: key of the machine that will execute it, if not this one."""
        status = Status(
            state="running",
            notebook=run.notebook.name,
            parameters=clean(run.values),
            kit=version(),
            machine=machine or machine_key(),
            started=now(),
        )
        folder = f"{self.root}/{run.notebook.name}/{key if number == 1 else f'{key}.{number}'}"
        with self._asking():
            return self._stage(folder, run, status) if self.staged else _take(Path(folder), run, status)

    def _stage(self, folder: str, run: Run, status: Status) -> Claim | None:
        self._make(folder)
        try:
            self.files.pipe_file(f"{folder}/status.json", msgspec.json.encode(status), mode="create")
        except FileExistsError:
            return None
        staging = Path(tempfile.mkdtemp(prefix="kit-run-"))
        return Claim(staging, folder, status, _draft(staging, run, status))

    def keep(self, claim: Claim, status: Status) -> None:
        """Write how a run ended and, if it was staged, upload it: its status last, so that nobody sees half of it."""
        tidy_log(claim.folder / "log.txt")
        _write_status(claim.folder, status)
        claim.log.close()
        if not self.staged:
            return
        files = [path for path in claim.folder.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path.name == "status.json"):
            there = f"{claim.kept}/{path.relative_to(claim.folder).as_posix()}"
            self._make(there.rpartition("/")[0])
            self.files.put_file(str(path), there)
        with suppress(Exception):  # there is none after a short run
            self.files.rm_file(f"{claim.kept}/alive")
        shutil.rmtree(claim.folder)

    def _make(self, folder: str) -> None:
        """Make a folder where there are any: in a bucket's store they are names, and making one may make the bucket."""
        if folder.startswith("/"):
            self.files.makedirs(folder, exist_ok=True)

    def drop(self, claim: Claim) -> None:
        """Give a claimed folder back, as if it had never been: nothing came of it."""
        claim.log.close()
        shutil.rmtree(claim.folder, ignore_errors=True)
        if self.staged:
            with self._asking():
                self.files.rm(claim.kept, recursive=True)

    def bury(self, attempt: Attempt) -> None:
        """Say of an attempt that died with its batch what it could not say itself. At a URL nobody can know."""
        if self.staged or attempt.alive or attempt.status.state != "running":
            return
        tidy_log(Path(attempt.folder, "log.txt"))
        _write_status(
            Path(attempt.folder),
            msgspec.structs.replace(attempt.status, state="cancelled", error="its batch ended before it did"),
        )


def at(place: str) -> Runs:
    """Return the runs kept at `place`: a folder, or an fsspec URL."""
    staged = "://" in place
    try:
        files, root = url_to_fs(place if staged else os.path.abspath(place))
    except (ImportError, ValueError) as error:
        raise UserError(f"runs can't be kept at {clean(place)}: {told_of(place, error)}") from None
    return Runs(files, root.rstrip("/"), place, staged)


def key(run: Run) -> str:
    """Return the name of a run's folder: equal for the same code, parameters and data, kit and machine."""
    files = [file for value in run.values.values() for file in _files(value, run.notebook.home)]
    text = json.dumps([run.notebook.digest, run.values, version(), machine_key(), files], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _files(value: object, home: Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of the local files that a parameter names: changed data is another run."""
    if not isinstance(value, str) or not value or len(value) > 4096 or "\0" in value:
        return []
    found = sorted(glob.glob(str(home / value), recursive=True))[:10_000]
    return [(path, status.st_size, status.st_mtime_ns) for path in found if (status := os.stat(path))]


def machine_key() -> str:
    """Return the key of this machine, as records have it."""
    from kit.machine.fingerprint import machine

    return machine().key


@cache
def version() -> str:
    """Return the kit's version and a hash of the parts of it that measure: a changed report asks for no new run."""
    folder, digest = Path(kit.__file__).parent, hashlib.sha256()
    rooms = (folder / room for room in ("machine", "measure", "record", "techniques"))
    for path in sorted(path for room in rooms for path in room.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{metadata.version('ml-scaling-kit')}+{digest.hexdigest()[:8]}"


def _number(folder: str, key: str) -> int:
    match = re.fullmatch(rf"{key}(?:\.(\d+))?", folder.rstrip("/").rpartition("/")[2])
    return int(match[1] or 1) if match else 0


def _take(folder: Path, run: Run, status: Status) -> Claim | None:
    """Fill a folder aside and rename it: it is never seen half made, and only one can have the name."""
    aside = folder.parent / f".{uuid4().hex}"
    aside.mkdir(parents=True)
    log = _draft(aside, run, status)
    try:
        os.rename(aside, folder)
    except OSError:
        log.close()
        shutil.rmtree(aside)
        if folder.exists():
            return None
        raise
    return Claim(folder, str(folder), status, log)


def draft(folder: Path, run: Run, status: Status) -> Claim:
    """Return a folder that belongs to no runs as a claim, filled as one."""
    return Claim(folder, str(folder), status, _draft(folder, run, status))


def _draft(folder: Path, run: Run, status: Status) -> BinaryIO:
    log = open(folder / "log.txt", "ab")  # noqa: SIM115 (whoever claims the folder closes it)
    with suppress(OSError):  # a file system without locks
        lock(log.fileno(), wait=False)
    (folder / "notebook.ipynb").write_text(json.dumps(run.notebook.document, indent=1), encoding="utf-8")
    _write_status(folder, status)
    return log


def tidy_log(log: Path) -> None:
    """Mask the secrets of a log whose run has ended: what libraries and workers printed has passed by nobody.

    The file stays the same one: its lock says that the run is still ours."""
    with suppress(OSError), tempfile.TemporaryFile() as cleaned, open(log, "r+b") as file:
        while lines := file.readlines(2**20):
            text = b"".join(lines).decode(errors="surrogateescape")
            cleaned.write(impersonal(text).encode(errors="surrogateescape"))
        cleaned.seek(0)
        file.seek(0)
        shutil.copyfileobj(cleaned, file)
        file.truncate()


def _write_status(folder: Path, status: Status) -> None:
    partial = folder / f".status.{uuid4().hex}"
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(status), indent=1))
    partial.replace(folder / "status.json")
