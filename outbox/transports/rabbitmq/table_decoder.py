"""
Decoding AMQP field tables that may contain any bytes.

Legal tables are decoded as pamqp decodes them. Of an illegal table the entries before the first
error are kept. `read_table` never raises, for any nesting and any length.
"""

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

MAX_DEPTH = 32
"""Maximum nesting of tables and arrays; deeper ones are not decoded."""

DECODE_ERRORS = (LookupError, ValueError, ArithmeticError, OSError, struct.error)
"""Errors for bytes that are not a legal value."""

_LONG = struct.Struct(">I")
_DECIMAL = struct.Struct(">Bi")
_LONG_LONG = struct.Struct(">Q")
SECONDS_MAX = 0xFFFF_FFFF
"""The last timestamp that is in seconds."""
TEXT = ord("S")
"""The type of a text: its size as a long, and its bytes."""

NUMBERS = {
    ord(kind): struct.Struct(layout)
    for kind, layout in {
        "t": ">?",
        "b": ">b",
        "B": ">B",
        "s": ">h",
        "u": ">H",
        "I": ">i",
        "i": ">I",
        "l": ">q",
        "L": ">q",
        "f": ">f",
        "d": ">d",
    }.items()
}
"""The types of numbers, and their layouts."""


def read_table(data: bytes, at: int, end: int) -> tuple[dict[str, Any], bool]:
    """Decode the table in *data* from *at* to *end*; also return whether all of it was legal."""
    table: dict[str, Any] = {}
    try:
        _entries(data, at, end, 1, table)
    except DECODE_ERRORS:
        return table, False
    return table, True


def moment(number: int) -> datetime:
    """
    Return the time of a timestamp in seconds; a number after the year 2106 is in milliseconds.

    Raises one of DECODE_ERRORS if `datetime` cannot hold it.
    """
    return datetime.fromtimestamp(number / 1000 if number > SECONDS_MAX else number, UTC)


def _entries(data: bytes, at: int, end: int, depth: int, table: dict[str, Any]) -> None:
    while at < end:
        start = at + 1
        at = start + data[at]
        name = data[start:at].decode()
        table[name], at = _value(data, at, end, depth)
    if at > end:
        raise ValueError("longer than its table")


def _value(data: bytes, at: int, end: int, depth: int) -> tuple[Any, int]:
    """Return the value at *at*, and the position of the next one."""
    kind = data[at]
    at += 1
    if kind == TEXT:
        raw, at = _sized(data, at, end)
        return _text(raw), at
    if (number := NUMBERS.get(kind)) is not None:
        return number.unpack_from(data, at)[0], at + number.size
    return _OTHER_TYPES[kind](data, at, end, depth)


def _sized(data: bytes, at: int, end: int) -> tuple[bytes, int]:
    start = at + 4
    stop = start + _LONG.unpack_from(data, at)[0]
    if stop > end:
        raise ValueError("longer than its table")
    return data[start:stop], stop


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        # Legal: an AMQP long string may contain any bytes.
        return raw


def _nested_table(data: bytes, at: int, end: int, depth: int) -> tuple[dict[str, Any], int]:
    raw, stop = _nested(data, at, end, depth)
    table: dict[str, Any] = {}
    _entries(raw, 0, len(raw), depth + 1, table)
    return table, stop


def _array(data: bytes, at: int, end: int, depth: int) -> tuple[list[Any], int]:
    raw, stop = _nested(data, at, end, depth)
    values, position = [], 0
    while position < len(raw):
        value, position = _value(raw, position, len(raw), depth + 1)
        values.append(value)
    return values, stop


def _nested(data: bytes, at: int, end: int, depth: int) -> tuple[bytes, int]:
    if depth >= MAX_DEPTH:
        raise ValueError("nested too deep")
    return _sized(data, at, end)


def _decimal(data: bytes, at: int, _end: int, _depth: int) -> tuple[Decimal, int]:
    places, digits = _DECIMAL.unpack_from(data, at)
    return Decimal(digits) * Decimal(10) ** -places, at + _DECIMAL.size


def _timestamp(data: bytes, at: int, _end: int, _depth: int) -> tuple[datetime, int]:
    return moment(_LONG_LONG.unpack_from(data, at)[0]), at + _LONG_LONG.size


def _bytes(data: bytes, at: int, end: int, _depth: int) -> tuple[bytearray, int]:
    raw, stop = _sized(data, at, end)
    return bytearray(raw), stop


def _void(_data: bytes, at: int, _end: int, _depth: int) -> tuple[None, int]:
    return None, at


_OTHER_TYPES: dict[int, Callable[[bytes, int, int, int], tuple[Any, int]]] = {
    ord("F"): _nested_table,
    ord("A"): _array,
    ord("D"): _decimal,
    ord("T"): _timestamp,
    ord("x"): _bytes,
    ord("V"): _void,
    0: _void,
}
