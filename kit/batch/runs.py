"""Keeps runs: one folder an attempt, claimed atomically, never overwritten, here or at any fsspec URL.

runs/<notebook>/<key>/ is the first attempt; <key>.2, <key>.3 … are next to it. Each has notebook.ipynb as executed,
records/*.json, log.txt, which is locked while a process of the run lives, and status.json (`Status`).
"""

import glob
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, Literal
from uuid import uuid4

import msgspec
from fsspec.core import url_to_fs

import kit
from kit import project
from kit.batch.locks import is_locked, lock
from kit.batch.plans import Run
from kit.errors import UserError
from kit.machine.fingerprint import machine
from kit.record import formatting as fmt
from kit.record.redaction import impersonal, told_of
from kit.record.store import clean, now, put


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a run: `status.json`. kit: version, and a hash of the parts that measure; machine: its key;
    error: the last line of what went wrong."""

    state: Literal["running", "finished", "failed", "cancelled"]
    notebook: str = ""
    parameters: dict[str, Any] = {}
    kit: str = ""
    machine: str = ""
    started: str = ""
    ended: str | None = None
    seconds: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Attempt:
    """One folder of a run. number: 1, 2, … in the order in which they were claimed. alive: a process is at it."""

    number: int
    folder: str
    status: Status
    alive: bool


@dataclass(frozen=True)
class Claim:
    """A folder that is ours to fill. kept: where it stands in the end. log: open, and locked while the run lives."""

    folder: Path
    kept: str
    status: Status
    log: BinaryIO


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
                bucket = self.root.partition("/")[0]  # nothing, where paths begin with a slash
                if bucket and not self.files.exists(bucket):
                    reason = f"there is no bucket {bucket}, or not for you; name one that exists"
                    raise FileNotFoundError(reason) from None
                return []
            named = ((re.fullmatch(rf".*/{key}(?:\.(\d+))?", folder.rstrip("/")), folder) for folder in folders)
            found = [(int(match[1] or 1), folder) for match, folder in named if match]
            return [self._attempt(folder, number) for number, folder in sorted(found)]

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a file system may raise what it likes
            reason = fmt.shown(clean(told_of(self.url, error)), 400) or type(error).__name__
            raise UserError(f"runs can't be kept at {clean(self.url)}: {reason}") from None

    def _attempt(self, folder: str, number: int) -> Attempt:
        try:
            status = msgspec.json.decode(self.files.cat_file(f"{folder}/status.json"), type=Status)
        except (OSError, msgspec.DecodeError) as error:
            status = Status(state="failed", error=f"status.json can't be read: {error}")
        return Attempt(number, folder, status, not self.staged and is_locked(Path(folder, "log.txt")))

    def claim(self, run: Run, key: str, number: int, by: str = "") -> Claim | None:
        """Make the folder of an attempt, with the notebook and its status; None if somebody else has it.
        by: key of the machine that executed it, if not this one."""
        about = {"kit": version(), "machine": by or machine().key, "started": now()}
        status = Status(state="running", notebook=run.notebook.name, parameters=clean(run.values), **about)
        folder = f"{self.root}/{run.notebook.name}/{key if number == 1 else f'{key}.{number}'}"
        with self._asking():
            return self._stage(folder, run, status) if self.staged else _take(Path(folder), run, status)

    def _make_folder(self, folder: str) -> None:
        if folder.startswith("/"):  # in a bucket's store folders are names, and making one may make the bucket
            self.files.makedirs(folder, exist_ok=True)

    def _stage(self, folder: str, run: Run, status: Status) -> Claim | None:
        self._make_folder(folder)
        try:
            self.files.pipe_file(f"{folder}/status.json", msgspec.json.encode(status), mode="create")
        except FileExistsError:
            return None
        staging = Path(tempfile.mkdtemp(prefix="kit-run-"))
        _write_status(staging, status)
        return Claim(staging, folder, status, begin(staging, run))

    def keep(self, claim: Claim, **ended: Any) -> None:
        """Write how a run ended, fields of its status; if it was staged, upload it: its status last."""
        tidy(claim.folder)
        _write_status(claim.folder, msgspec.structs.replace(claim.status, **ended))
        claim.log.close()
        if not self.staged:
            return
        files = [path for path in claim.folder.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path.name == "status.json"):
            there = f"{claim.kept}/{path.relative_to(claim.folder).as_posix()}"
            self._make_folder(there.rpartition("/")[0])
            self.files.put_file(str(path), there)
        shutil.rmtree(claim.folder)

    def shown(self, claim: Claim) -> str:
        """Return the path of a run's log for people."""
        log = f"{claim.kept}/log.txt"
        return clean(self.files.unstrip_protocol(log)) if self.staged else min(log, os.path.relpath(log), key=len)

    def settle(self, attempt: Attempt) -> None:
        """Mark an attempt that died with its batch as cancelled. At a URL nobody can know."""
        if not self.staged and not attempt.alive and attempt.status.state == "running":
            tidy(Path(attempt.folder))
            ended = {"state": "cancelled", "error": "its batch ended before it did"}
            _write_status(Path(attempt.folder), msgspec.structs.replace(attempt.status, **ended))


def at(place: str) -> Runs:
    """Return the runs kept at `place`: a folder, or an fsspec URL."""
    staged = "://" in place
    try:
        files, root = url_to_fs(place if staged else os.path.abspath(place))
    except (ImportError, ValueError) as error:
        raise UserError(f"runs can't be kept at {clean(place)}: {told_of(place, error)}") from None
    return Runs(files, root.rstrip("/"), place, staged)


def key(run: Run) -> str:
    """Return the name of a run's folder: it follows notebook, parameters, data, project, packages, kit and machine."""
    home, notebook = run.notebook.home, run.notebook
    path = notebook.name if notebook.shipped else os.path.relpath(notebook.path, project.project())
    parts = [path, notebook.digest, run.values, _files(run), _code(home), _packages(), version(), machine().key]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


_WRITES = re.compile(r"""\b(?:to_|write|save|sink|dump)|["'][wax]b?\+?["']""")  # lines whose files are results


def _files(run: Run) -> list[tuple[str, Any]]:
    """Return files that a parameter names, or the code where it reads: by content, above 64 MiB by size and time."""
    named = [one for one in run.values.values() if isinstance(one, str) and 0 < len(one) <= 4096 and "\0" not in one]
    for line in "\n".join(cell["source"] for cell in run.notebook.document["cells"]).splitlines():
        named += [] if _WRITES.search(line) else re.findall(r"""["']([^"'\n]+\.\w+)["']""", line)
    found = {path for name in named for path in glob.glob(str(run.notebook.home / name), recursive=True)[:10_000]}
    return [(path, _content(Path(path), os.stat(path))) for path in sorted(found) if os.access(path, os.R_OK)]


def _content(path: Path, status: os.stat_result) -> Any:
    small = path.is_file() and status.st_size <= 2**26
    return hashlib.sha256(path.read_bytes()).hexdigest() if small else (status.st_size, status.st_mtime_ns)


def _code(home: Path) -> list[str]:
    """Return the commit of a checkout and digests of changes since, but those of the kit's own output and of notebooks,
    whose code is in the key already; outside a checkout digests of the modules near the notebook."""
    commit, _, root = _git(home, "rev-parse", "HEAD", "--show-toplevel").strip().partition("\n")
    if root:
        home, but = Path(root), [f":(exclude){name}" for name in ("*.ipynb", "runs", "report")]
        new = _git(home, "ls-files", "--others", "--exclude-standard", "-z", "*.py").split("\0")
        texts, paths = [commit, _git(home, "diff", "HEAD", "--", *but)], [home / name for name in new if name]
    else:
        texts, paths = [], sorted(path for pattern in ("*.py", "*/*.py") for path in home.glob(pattern))
    texts += [path.read_text(errors="replace") for path in paths]
    return [hashlib.sha256(text.encode()).hexdigest() for text in texts]


def _git(folder: Path, *arguments: str) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.decode(errors="replace")
    return ""


def _packages() -> list[str]:
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    names = {name for folder in folders for name in os.listdir(folder) if name.endswith(".dist-info")}
    return [platform.python_version(), *sorted(names)]


@cache
def version() -> str:
    """Return the kit's version and a hash of the parts of it that measure: a changed report asks for no new run."""
    folder, digest = Path(kit.__file__).parent, hashlib.sha256()
    rooms = "machine", "measure", "record", "common", "techniques"
    for path in sorted(path for room in rooms for path in (folder / room).rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{metadata.version('ml-scaling-kit')}+{digest.hexdigest()[:8]}"


def _take(folder: Path, run: Run, status: Status) -> Claim | None:
    """Fill a folder aside and rename it: it is never seen half made, and only one can have the name."""
    aside = folder.parent / f".{uuid4().hex}"
    try:
        aside.mkdir(parents=True)
        log = begin(aside, run)
        _write_status(aside, status)
        os.rename(aside, folder)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        if folder.exists():
            return None
        raise
    return Claim(folder, str(folder), status, log)


def begin(folder: Path, run: Run) -> BinaryIO:
    """Put a run's notebook into its folder, and return its log, open and locked."""
    log = open(folder / "log.txt", "ab")  # noqa: SIM115
    with suppress(OSError):  # a file system without locks
        lock(log.fileno())
    (folder / "notebook.ipynb").write_text(json.dumps(run.notebook.document), encoding="utf-8")
    return log


def tidy(folder: Path) -> None:
    """Leave in the folder of a run that has ended no secret, no home folder and no progress. Its log stays the same
    file: its lock is still ours."""
    for path in folder.glob("progress.*"):
        path.unlink()
    with suppress(OSError), open(folder / "log.txt", "r+b") as file:
        text = impersonal(file.read().decode(errors="surrogateescape"))
        file.seek(0)
        file.write(text.encode(errors="surrogateescape"))
        file.truncate()
    document = clean(json.loads((folder / "notebook.ipynb").read_bytes()))
    put(folder / "notebook.ipynb", json.dumps(document, indent=1, ensure_ascii=False))


def _write_status(folder: Path, status: Status) -> None:
    put(folder / "status.json", msgspec.json.format(msgspec.json.encode(status), indent=1).decode())
