"""
The canonical form of a row of `audit_log`, and its hash.

A row is hashed as these bytes, one after another:

    PREFIX                    15 bytes: `outbox-audit-1` and a line feed
    previous_hash             32 bytes: the hash of the row before; zeros for the first row
    for each of FIELDS        4 bytes, big endian: the length in bytes; then the text in UTF-8

The texts are those that SQLite stores: `id` and `messages` are decimal, `at` is UTC as in
`2026-03-01 08:30:00.123456`, `run` has 32 lowercase hex digits, and JSON has the form in which
Postgres shows `jsonb`. The trigger `audit_log_chain` of Postgres makes the same bytes.
docs/reference/audit-chain.md specifies this for auditors.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self

from outbox.errors import ConfigurationError

PREFIX = b"outbox-audit-1\n"
START = bytes(32)
"""The hash before the first row."""

FIELDS = (
    *("id", "at", "run", "role", "actor", "action", "source", "because"),
    *("selection", "messages", "details"),
)
"""The columns that are hashed, in this order."""

_HEAD = re.compile(r"([0-9]{1,18}):([0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain: the number of its *rows*, and the *hash* of the last one."""

    rows: int = 0
    hash: bytes = START

    def __str__(self) -> str:
        return f"{self.rows}:{self.hash.hex()}"

    @classmethod
    def parsed(cls, option: str, text: str) -> Self:
        """Parse the text of a head, or raise ConfigurationError, which names *option*."""
        parts = _HEAD.fullmatch(text.strip())
        if parts is None:
            raise ConfigurationError(f"{option}: must be N:HASH, as `audit head` prints it")
        return cls(int(parts[1]), bytes.fromhex(parts[2]))


def hash_of(previous_hash: bytes, texts: Sequence[str | None]) -> bytes:
    """Return the hash of the row with these *texts* of FIELDS; a text that is null is empty."""
    digest = hashlib.sha256(PREFIX + previous_hash)
    for text in texts:
        # Text of SQLite that is not UTF-8 is read with surrogates in place of its bytes.
        field = b"" if text is None else text.encode(errors="surrogateescape")
        digest.update(len(field).to_bytes(4) + field)
    return digest.digest()


def canonical_json(value: object) -> str:
    """
    Return *value* as JSON in the form of Postgres' `jsonb`.

    Keys are sorted by their length in bytes and then by their bytes, numbers have no exponent, and
    a blank follows each colon and comma.
    Raises ValueError for a value that `jsonb` cannot store.
    """
    match value:
        case Mapping():
            pairs = sorted(value.items(), key=lambda pair: _order(pair[0]))
            return f"{{{', '.join(f'{_text(k)}: {canonical_json(v)}' for k, v in pairs)}}}"
        case list() | tuple():
            return f"[{', '.join(map(canonical_json, value))}]"
        case str():
            return _text(value)
        case float():
            return _decimal(value)
        case None | bool() | int():
            return json.dumps(value)
        case _:
            raise ValueError(f"JSON has no {type(value).__name__}")


def _order(key: Any) -> tuple[int, bytes]:
    if not isinstance(key, str):
        raise ValueError("keys of JSON are texts")  # noqa: TRY004 - as for other values
    encoded = key.encode()
    return len(encoded), encoded


def _text(text: str) -> str:
    if "\0" in text:
        raise ValueError("jsonb stores no NUL")
    text.encode()  # a surrogate raises UnicodeEncodeError, which is a ValueError
    return json.dumps(text, ensure_ascii=False)


def _decimal(number: float) -> str:
    if not math.isfinite(number):
        raise ValueError("JSON has neither infinity nor NaN")
    return format(abs(Decimal(repr(number))) if number == 0 else Decimal(repr(number)), "f")
