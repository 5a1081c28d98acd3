"""Writes records so that none is lost or half-written, and reads them back without trusting them."""

import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from kit.errors import UserError
from kit.record import upgrade
from kit.record.document import VERSION, Chart, Record, Table
from kit.record.formatting import shown
from kit.record.redaction import MASK, impersonal, is_secret

LARGEST_BYTES = 256 * 2**20
"""A file above this is not read: no comparison writes such a record."""


def new_id() -> str:
    """Return an identifier that no other writer has: time for people, randomness against collisions."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid4().hex[:8]}"


def now() -> str:
    """Return the time now, UTC, as a record writes it."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def clean(value: Any) -> Any:
    """Return `value` as plain JSON data: NaN and infinities become null, secrets are masked, the home folder becomes
    `~`, and what JSON cannot hold becomes its text.

    >>> clean({"url": "s3://key:secret@bucket/x", "loss": float("nan"), "api_key": "0abc"})
    {'url': 's3://***@bucket/x', 'loss': None, 'api_key': '***'}
    """
    if isinstance(value, str):
        return impersonal(value.encode("utf-8", "replace").decode())  # file names may hold half characters
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None  # float() for NumPy's float64, which is a float too
    if isinstance(value, dict):
        hidden = {key for key, item in value.items() if isinstance(item, str) and item and is_secret(str(key))}
        return {clean(str(key)): MASK if key in hidden else clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [clean(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a scalar of NumPy or a tensor
        return clean(value.item())
    return clean(str(value))


def write(record: Record, folder: Path | str) -> Path:
    """Write `record` into `folder` atomically, under a name of its own, and return the path.

    The name is `<comparison>-<id>.json`; a file that stands there is never overwritten.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", record.asked.comparison.lower()).strip("-")[:60] or "comparison"
    path = Path(folder) / f"{slug}-{re.sub(r'[^A-Za-z0-9._-]+', '-', record.id)[:80]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise FileExistsError(f"{path.name} is there already; a record is never overwritten")
    _put(record, path)
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name to write to, which becomes `path` at once when it is whole."""
    partial = path.with_name(f".{path.name}.{uuid4().hex[:8]}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def put(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(text.encode("utf-8", "replace"))


def _put(record: Record, path: Path) -> None:
    document = clean(msgspec.to_builtins(record, enc_hook=clean))
    with replacing(path) as partial, open(partial, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(document), indent=1))
        file.flush()
        os.fsync(file.fileno())


def artifact(path: Path, artifacts: Iterable[Chart | Table]) -> Record:
    """Add charts and tables to the record in the file `path`, which is replaced at once, and return the new record.

    Raise `UserError` if the file can't be read or replaced; it is then as it was."""
    record = with_artifacts(read(path), artifacts)
    try:
        _put(record, path)
    except OSError as error:
        raise UserError(f"{path.name}: nothing could be added: {error.strerror or error}; it is as it was") from None
    return record


def with_artifacts(record: Record, artifacts: Iterable[Chart | Table]) -> Record:
    """Return `record` with these charts and tables; one of a title that is there replaces it where it stands."""
    titled = {artifact.title: artifact for artifact in (*record.artifacts, *artifacts)}
    return msgspec.structs.replace(record, artifacts=list(titled.values()))


def read(path: Path | str) -> Record:
    """Read one record. Raise `UserError`, with the reason in one sentence, if the file is not a whole record of a
    version that this kit knows. Nothing that is read is ever executed."""
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for without end
            raise UserError(f"{path.name}: it is not a file; it was not read")
        if (size := path.stat().st_size) > LARGEST_BYTES:
            raise UserError(f"{path.name}: {size / 2**20:.0f} MiB is more than a record can be; it was not read")
        return decode(path.read_bytes(), path.name)
    except OSError as error:
        raise UserError(f"{path.name}: it could not be read: {error.strerror or error}") from None


class _Version(msgspec.Struct):
    schema: Any = None


def decode(text: bytes, name: str = "record") -> Record:
    """Return the record in `text`; raise `UserError` as `read` does."""
    try:
        version = msgspec.json.decode(text, type=_Version).schema
        if version == VERSION:
            return msgspec.json.decode(text, type=Record)
        if version == upgrade.VERSION:
            return msgspec.convert(upgrade.upgraded(msgspec.json.decode(text)), type=Record)
    except (msgspec.ValidationError, UserError, AttributeError, TypeError) as error:
        raise UserError(f"{name}: it is not a record: {shown(error, 160)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{name}: it is not whole JSON, or a Git LFS pointer: {shown(error, 120)}") from None
    known = f"this kit reads {VERSION!r} and {upgrade.VERSION!r}; read it with the kit that wrote it"
    raise UserError(f"{name}: its version is {shown(version, 160)!r} and {known}")
