"""Remembers what records say without their readings, so that thousands need not be read again for a report.

An index is a file in the user's cache folder, one for each set of places that are read together. It is never trusted
over the files: an entry counts only while its file is what it was, and an index that is damaged, foreign or written
by another version of the code that reads is passed over and written anew. Everything works without it.

    kit.index/1          a line
    …                    records, compressed, one behind the other
    contents             `_Contents`
    length, digest       of the contents: 8 and 16 bytes
"""

import hashlib
import os
import stat
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from kit.record import document, store
from kit.record.document import Record, Session
from kit.stored import gather
from kit.stored.gather import File, Unreadable

LEAST = 100
"""Records below which reading them takes no time to speak of, and no index is kept."""

_HEAD = b"kit.index/1\n"
_LARGEST_CONTENTS = 256 * 2**20
_LARGEST_ENTRY = 16 * 2**20
_UNUSED_S = 90 * 24 * 3600.0
"""An index that nobody used for so long is removed."""


class _Place(Struct, frozen=True, array_like=True):
    """Where an entry stands, of which state of its file it is, and its digest."""

    mark: str
    offset: int
    length: int
    digest: bytes


class _Contents(Struct, frozen=True):
    """Of whose code an index is, and its entries, by the paths of their files."""

    code: str
    places: dict[str, _Place]


class _Entry(Struct, frozen=True, array_like=True):
    """What is remembered of a file: its size in bytes, and its record without readings."""

    size: int
    record: Record


def read_records(places: list[str], files: list[File], unreadable: list[Unreadable]) -> Iterator[tuple[File, Record]]:
    """Yield what `gather.read_records` yields, each record without readings and exhibits (see `outline`).

    places: the runs that `files` were found in, by which the index is found again."""
    if len(files) < LEAST:
        yield from gather.read_records(files, unreadable)
        return
    path = _path(places)
    with _opened(path) as index:
        yield from gather.read_records(files, unreadable, index.read)
        index.save(path)


def outline(record: Record) -> Record:
    """Return a record without what only its own page shows: readings, code, the technique's own exhibits."""
    points = [structs.replace(p, sessions=[_bare(session) for session in p.sessions]) for p in record.points]
    asked = structs.replace(record.asked, sources={})
    return structs.replace(record, asked=asked, points=points, exhibits=[], extra={})


def _bare(session: Session) -> Session:
    return structs.replace(session, order=[], readings={}, load=[], steal=[])


class _Index:
    """The entries of an index, and those that replace them."""

    def __init__(self, file: int | None, places: dict[str, _Place]):
        self._file, self._places = file, places
        self._used: dict[str, _Place] = {}
        self._new: dict[str, tuple[str, bytes]] = {}

    def read(self, file: File) -> tuple[Record, int]:
        """Return a file's record without readings, and the file's size: from the index where it is as it was."""
        if (entry := self._remembered(file)) is None:
            record, size = gather.read_record(file)
            entry = _Entry(size, outline(record))
            self._remember(file, entry)
        return entry.record, entry.size

    def _remembered(self, file: File) -> _Entry | None:
        place = self._places.get(_name(file))
        if place is None or not file.mark or place.mark != file.mark:
            return None
        try:
            packed = self._packed(place)
            entry = msgspec.msgpack.decode(_unpacked(packed), type=_Entry)
        except (OSError, OverflowError, ValueError, zlib.error, msgspec.DecodeError, RecursionError):
            return None
        self._used[_name(file)] = place
        return entry

    def _packed(self, place: _Place) -> bytes:
        packed = os.pread(self._file, place.length, place.offset)
        if _digest(packed) != place.digest:
            raise ValueError("an entry is damaged")
        return packed

    def _remember(self, file: File, entry: _Entry) -> None:
        if not file.mark:
            return
        with suppress(OverflowError, ValueError, TypeError, RecursionError):  # a number that only JSON can hold
            text = msgspec.msgpack.encode(entry)
            if len(text) <= _LARGEST_ENTRY:
                self._new[_name(file)] = file.mark, zlib.compress(text, 1)

    def save(self, path: Path | None) -> None:
        """Write the index anew if anything changed, at once; where that can't be, the next report reads the files."""
        if path is None:
            return
        with suppress(OSError, ValueError):
            if self._new or self._used.keys() != self._places.keys():
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                _tidy(path.parent)
                self._write(path)
            else:
                os.utime(path)

    def _write(self, path: Path) -> None:
        descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(descriptor, "wb") as file:
                file.write(_HEAD)
                old = ((name, place.mark, self._packed(place)) for name, place in self._used.items())
                places = {name: _append(file, mark, packed) for name, mark, packed in old}
                places |= {name: _append(file, mark, packed) for name, (mark, packed) in self._new.items()}
                contents = msgspec.msgpack.encode(_Contents(_code(), places))
                file.write(contents + len(contents).to_bytes(8) + _digest(contents))
            os.replace(partial, path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise


def _append(file, mark: str, packed: bytes) -> _Place:
    place = _Place(mark, file.tell(), len(packed), _digest(packed))
    file.write(packed)
    return place


def _unpacked(packed: bytes) -> bytes:
    """Return the text of an entry; never more than one may have, whatever it was packed from."""
    unpack = zlib.decompressobj()
    text = unpack.decompress(packed, _LARGEST_ENTRY)
    if unpack.unconsumed_tail:
        raise ValueError("an entry is too large")
    return text


@contextmanager
def _opened(path: Path | None) -> Iterator[_Index]:
    """Open an index; an empty one if there is none that can be used."""
    file = None
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) if path else None
        contents = _contents(file) if file is not None else None
    except (OSError, ValueError, OverflowError, msgspec.DecodeError, RecursionError):
        contents = None
    try:
        yield _Index(file, contents.places if contents and contents.code == _code() else {})
    finally:
        if file is not None:
            os.close(file)


def _contents(file: int) -> _Contents:
    """Return what stands in an index; raise ValueError if it is not whole, or not the user's own."""
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_size < len(_HEAD) + 24:
        raise ValueError("not an index of ours")
    end = os.pread(file, 24, found.st_size - 24)
    length = int.from_bytes(end[:8])
    if os.pread(file, len(_HEAD), 0) != _HEAD or length > min(_LARGEST_CONTENTS, found.st_size):
        raise ValueError("not an index")
    text = os.pread(file, length, found.st_size - 24 - length)
    if _digest(text) != end[8:]:
        raise ValueError("not whole")
    return msgspec.msgpack.decode(text, type=_Contents)


def _name(file: File) -> str:
    return f"{file.system.protocol}:{file.path}"


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()


@cache
def _code() -> str:
    """Return a hash of the code that makes entries of files: what another version remembered may be read otherwise."""
    paths = (document.__file__, store.__file__, gather.__file__, __file__)
    return _digest(b"".join(Path(path).read_bytes() for path in paths)).hex()


def _path(places: list[str]) -> Path | None:
    """Return where the index of these places is; None where the user has no folder for it."""
    full = sorted(place if "://" in place else os.path.abspath(place) for place in places)
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "ml-scaling-kit")
    except RuntimeError:
        return None
    return folder / f"index-{_digest(repr(full).encode()).hex()[:16]}"


def _tidy(folder: Path) -> None:
    """Remove indexes that nobody used for long, and what a killed report left."""
    for path in [*folder.glob("index-*"), *folder.glob(".index-*")]:
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - _UNUSED_S:
                path.unlink()
