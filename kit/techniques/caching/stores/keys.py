"""Keys: what a cached answer depends on, as a hash: the model's version and the inputs."""

from collections.abc import Iterable, Mapping
from hashlib import blake2b, file_digest
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np

from kit.errors import UserError


def key(version: str | None, inputs: Any) -> bytes:
    """Return the key of the answer that the model of this version gives to these inputs: 16 bytes.

    version: what changes whenever answers may change: a hash of the model's file (`content`), of the code before and
    after it, of its options. None leaves it out: after a change of the model the cache answers for the old one.
    inputs: bytes, text, numbers, NumPy arrays and scalars, and lists, tuples and dicts of them. What differs in type
    differs in key; a dict's order does not matter, nor whether an array is mapped from a file. Raise `UserError` for
    other inputs, as masked arrays.
    """
    hashed = blake2b(digest_size=16)
    for part in _parts((version, inputs)):
        hashed.update(part)
    return hashed.digest()


def content(path: Path | str) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal: a version that no one can forget to raise."""
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _parts(value: Any) -> Iterable[bytes | memoryview]:
    """Yield bytes that no other value yields: each part is led by its type and its length."""
    if (type(value) in (np.ndarray, np.memmap) or isinstance(value, np.generic)) and value.dtype.kind in "biufcSUmM":
        kind = b"g" if isinstance(value, np.generic) else b"a"
        yield b"%b%r%r:" % (kind, value.dtype.str, value.shape)
        yield np.ascontiguousarray(value).reshape(-1).view(np.uint8).data if value.nbytes else b""
    elif isinstance(value, bytes | bytearray):
        yield b"b%b %d:" % (type(value).__name__.encode(), len(value))
        yield value
    elif isinstance(value, memoryview) and "O" not in value.format:
        yield b"m%r%r:" % (value.format, value.shape)
        yield value.tobytes()
    elif isinstance(value, str):
        text = _text(value)
        yield b"s%b %d:%b" % (type(value).__name__.encode(), len(text), text)
    elif value is None or isinstance(value, bool | Number):
        text = f"{type(value).__name__} {value!r}".encode()
        yield b"n%d:%b" % (len(text), text)
    elif isinstance(value, list | tuple):
        yield b"l%b %d:" % (_type(value), len(value))
        for one in value:
            yield from _parts(one)
    elif isinstance(value, Mapping):
        yield b"d%b %d:" % (_type(value), len(value))
        for name in sorted(value, key=repr):
            yield from _parts(name)
            yield from _parts(value[name])
    else:
        raise UserError(
            f"a key can't be made of {type(value).__name__}; give bytes, text, numbers, NumPy arrays, lists and dicts"
        )


def _type(value: Any) -> bytes:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}".encode()


def _text(value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise UserError(f"a key can't be made of {value!r:.60}, half a character (a surrogate); give bytes") from None
