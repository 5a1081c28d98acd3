"""An entry as bytes: a header with version, expiry and checksum, then the value. Nothing here can run code.

What a store hands back may be damaged, half written, or by a stranger: `unpack` returns None for all that `pack` has
not made for this very key. A checksum finds accidents, not an enemy; but even an enemy's entry is only ever a value.

Values: None, bool, int (64 bits), float, str, bytes, lists and dicts of them, NumPy arrays and scalars of plain types,
and Arrow tables; also nested. Arrays come back read-only. What would come back as something else is refused, so that a
cached answer is like an uncached one: a tuple would be a list, a pandas table would have lost its index.
"""

import struct
import zlib
from typing import Any, NamedTuple

import msgspec
import numpy as np

from kit.errors import UserError


class Found(NamedTuple):
    """A value that is held, and when it expires: seconds since 1970, None for never."""

    value: Any
    expires: float | None


HEADER = struct.Struct("<4scdI")
"""Format and its version, kind of the value, expiry (infinity: never), CRC-32 of the key and all else."""

MAGIC = b"kit\x01"
PLAIN, BYTES, ARRAY, TABLE = b"p", b"b", b"a", b"t"
DTYPES = "biufcSUmM"
"""NumPy's kinds whose bytes are the values: no objects, no structures."""

_ARRAY, _SCALAR, _TABLE = 1, 2, 3
"""Codes of MessagePack's extension type, for what stands inside lists and dicts."""


class _Array(msgspec.Struct, array_like=True):
    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def pack(key: bytes, value: Any, expires: float | None = None) -> bytes:
    """Return the entry of `value` for `key`. Raise `UserError` if its type is none of those that are kept."""
    kind, payload = encode(value)
    expires = float("inf") if expires is None else expires
    return HEADER.pack(MAGIC, kind, expires, _checksum(key, kind, expires, payload)) + payload


def unpack(key: bytes, raw: bytes | None) -> Found | None:
    """Return the value in an entry, and when it expires; None if it isn't a whole entry that was packed for `key`."""
    try:
        magic, kind, expires, checksum = HEADER.unpack_from(raw)
        payload = memoryview(raw)[HEADER.size :]
        if magic != MAGIC or checksum != _checksum(key, kind, expires, payload):
            return None
        return Found(decode(kind, payload), None if expires == float("inf") else expires)
    except Exception:  # a forger's entry can pass the checksum and fail anywhere in three libraries
        return None


def _checksum(key: bytes, kind: bytes, expires: float, payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(b"%b%b%r" % (kind, key, expires)))


def encode(value: Any) -> tuple[bytes, bytes]:
    """Return the kind of a value, and its bytes."""
    if type(value) is bytes:
        return BYTES, value
    if type(value) is np.ndarray:
        return ARRAY, _array_bytes(value)
    if is_table(value):
        return TABLE, _table_bytes(value)
    try:
        return PLAIN, msgspec.msgpack.encode(_checked(value), enc_hook=_extension)
    except (OverflowError, UnicodeEncodeError, RecursionError) as error:
        raise UserError(f"a cache here can't keep {value!r:.60}: {error}; cache a plainer value") from None


def decode(kind: bytes, payload: memoryview) -> Any:
    """Return the value in so many bytes. Raise whatever the libraries raise for bytes that `encode` didn't make."""
    if kind == BYTES:
        return bytes(payload)
    if kind == ARRAY:
        return _array(payload)
    if kind == TABLE:
        return _table(payload)
    if kind == PLAIN:
        return msgspec.msgpack.decode(payload, ext_hook=_extended)
    raise ValueError(f"unknown kind {kind!r}")


def alike(value: Any) -> Any:
    """Return a value as a hit returns it: a copy of one's own, arrays read-only. Raise `UserError` as `pack` does."""
    kind, payload = encode(value)
    return decode(kind, memoryview(payload))


_LEAVES = frozenset({type(None), bool, int, float, str, bytes})


def _checked(value: Any) -> Any:
    """Return `value`. Raise `UserError` unless it would come back as what it is."""
    kind = type(value)
    if kind in _LEAVES or kind is np.ndarray or isinstance(value, np.generic) or is_table(value):
        return value
    if kind is list:
        for one in value:
            _checked(one)
        return value
    if kind is dict:
        for name, one in value.items():
            if type(name) not in (str, int):
                raise UserError(
                    f"a cache here keeps dicts by str or int, not by {type(name).__name__}; rename {name!r}"
                )
            _checked(one)
        return value
    raise UserError(
        f"a cache here can't keep {_article(kind)} so that it comes back the same; "
        f"{_INSTEAD.get(kind.__name__, 'give numbers, text, bytes, lists, dicts, NumPy arrays or Arrow tables')}"
    )


_INSTEAD = {
    "tuple": "give a list",
    "DataFrame": "give an Arrow table, as pyarrow.Table.from_pandas(frame)",
    "Tensor": "give an array, as tensor.numpy()",
}


def _article(kind: type) -> str:
    return f"a {kind.__module__}.{kind.__name__}".replace("builtins.", "")


# Arrays: type, shape, and the bytes in C order


def check(array: np.ndarray) -> None:
    """Raise `UserError` for an array whose bytes are not its values."""
    if array.dtype.kind not in DTYPES:
        raise UserError(f"a cache here can't keep an array of {array.dtype}; give one of numbers, times or fixed texts")


def _array_bytes(array: np.ndarray) -> bytes:
    check(array)
    data = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8)) if array.size else memoryview(b"")
    return msgspec.msgpack.encode(_Array(array.dtype.str, array.shape, data))


def _array(payload: bytes | memoryview) -> np.ndarray:
    held = _ARRAYS.decode(payload)
    dtype = np.dtype(held.dtype)
    if dtype.kind not in DTYPES or min(held.shape, default=0) < 0:
        raise ValueError("not an array that was encoded here")
    array = np.require(np.frombuffer(held.data, dtype), requirements="A").reshape(held.shape)
    array.flags.writeable = False
    return array


_ARRAYS = msgspec.msgpack.Decoder(_Array)


# Arrow tables


def is_table(value: Any) -> bool:
    """Return whether a value is an Arrow table, without importing Arrow."""
    return type(value).__name__ == "Table" and type(value).__module__ == "pyarrow.lib"


def _table_bytes(table: Any) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _table(payload: bytes | memoryview) -> Any:
    import pyarrow as pa

    with pa.ipc.open_stream(pa.py_buffer(payload)) as reader:
        table = reader.read_all()
    table.validate(full=True)  # Arrow's own advice for bytes that a stranger could have written
    return table


# Inside lists and dicts


def _extension(value: Any) -> msgspec.msgpack.Ext:
    if isinstance(value, np.generic):
        return msgspec.msgpack.Ext(_SCALAR, _array_bytes(np.asarray(value)))
    if isinstance(value, np.ndarray):
        return msgspec.msgpack.Ext(_ARRAY, _array_bytes(value))
    return msgspec.msgpack.Ext(_TABLE, _table_bytes(value))


def _extended(code: int, data: memoryview) -> Any:
    return _EXTENDED[code](data)


_EXTENDED = {_ARRAY: _array, _SCALAR: lambda data: _array(data)[()], _TABLE: _table}
