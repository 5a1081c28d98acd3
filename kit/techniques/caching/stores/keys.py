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
    inputs: bytes, text, numbers, NumPy arrays, and lists, tuples and dicts of them; a dict's order does not matter.
    What differs in type differs in key. Raise `UserError` for other inputs.
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
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufcSUmM":
        yield b"a%r%r:" % (value.dtype.str, value.shape)
        yield np.ascontiguousarray(value).reshape(-1).view(np.uint8).data if value.size else b""
    elif isinstance(value, bytes | bytearray | memoryview):
        yield b"b%d:" % len(value)
        yield value
    elif isinstance(value, str):
        text = value.encode(errors="surrogatepass")
        yield b"s%d:%b" % (len(text), text)
    elif value is None or isinstance(value, bool | Number):
        text = f"{type(value).__name__} {value!r}".encode()
        yield b"n%d:%b" % (len(text), text)
    elif isinstance(value, list | tuple):
        yield b"l%d:" % len(value)
        for one in value:
            yield from _parts(one)
    elif isinstance(value, Mapping):
        yield b"d%d:" % len(value)
        for name in sorted(value, key=repr):
            yield from _parts(name)
            yield from _parts(value[name])
    else:
        raise UserError(
            f"a key can't be made of {type(value).__name__}; give bytes, text, numbers, NumPy arrays, lists and dicts"
        )
