"""
Random markers for health data, and how to find them in bytes: plain, encoded or compressed.

Each group of markers has two random tags that begin and end its markers: one of letters and
digits, which most encodings change by their own rules, and one of Greek letters, which JSON and
URLs escape. A place that holds either tag in any form holds a marker.
"""

import base64
import hashlib
import re
import secrets
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from typing import TypeAlias
from urllib.parse import quote

import zstandard

from tests.reliability.leak_marker import in_base64

_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"
_GREEK = "αβγδεζηθικλμνξοπρστυφχψω"
_LONGEST_PLAIN = 1 << 20
_MAGIC = (b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd")
"""The first bytes of a member of gzip, and of a frame of zstd."""

_DIGITS = re.compile(rb"(?:[0-9a-f]{2})+")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+")


class Group(StrEnum):
    """Whose markers they are."""

    ENCRYPTED = "of an encrypted event"
    PLAIN = "of a plain event"
    HANDLER = "of a handler's own statement"


@dataclass(frozen=True)
class Markers:
    """The markers of one group."""

    ascii: str = field(
        default_factory=lambda: "".join(secrets.choice(_LETTERS) for _ in range(12))
    )
    greek: str = field(default_factory=lambda: "".join(secrets.choice(_GREEK) for _ in range(6)))
    _numbers: Iterator[int] = field(default_factory=count, repr=False)

    def new(self) -> str:
        """A marker that differs from all others; it is a valid key, and no word of a type."""
        return f"{self.ascii}/{next(self._numbers)}/{self.greek}"

    def forms(self) -> frozenset[bytes]:
        """The bytes of both tags in each encoding."""
        return frozenset(_forms(self.ascii) | _forms(self.greek))


def _forms(text: str) -> set[bytes]:
    plain = text.encode()
    escaped = text.encode("ascii", "backslashreplace")
    return {
        plain,
        text.upper().encode(),
        plain.hex().encode(),
        plain.hex().upper().encode(),
        text.encode("utf-16-le"),
        text.encode("utf-16-be"),
        escaped,
        escaped.upper().replace(b"\\U", b"\\u"),
        quote(plain).encode(),
        quote(plain).lower().encode(),
        *(in_base64(plain, behind=before) for before in range(3)),
        *(in_base64(plain, behind=before).translate(_URL_SAFE) for before in range(3)),
    }


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


Forms: TypeAlias = list[tuple[Group, bytes]]


class Search:
    """Finds the markers of several groups, and remembers the places in which it found them."""

    def __init__(self, groups: dict[Group, Markers]) -> None:
        self._forms: Forms = [
            (group, form) for group, markers in groups.items() for form in markers.forms()
        ]
        self._plain: Forms = [
            (group, tag.encode(encoding))
            for group, markers in groups.items()
            for tag in (markers.ascii, markers.greek)
            for encoding in ("utf-8", "utf-16-le")
        ]
        self._known: dict[bytes, dict[Group, bytes]] = {}
        self.found: dict[Group, dict[str, bytes]] = {group: {} for group in groups}
        self.searched: dict[str, int] = {}

    def look(self, place: str, data: bytes) -> None:
        """Search *data*, which is all of *place* or a part of it."""
        self.searched[place] = self.searched.get(place, 0) + len(data)
        content = hashlib.blake2b(data).digest()
        if content not in self._known:  # a backup is nearly the same as the original
            self._known[content] = self._in(self._forms, data, *_unpacked(data))
        self._add(place, self._known[content])

    def look_in_memory(self, place: str, region: bytes) -> None:
        """Search a *region* of the memory of a process for plain markers; it is large."""
        self.searched[place] = self.searched.get(place, 0) + len(region)
        self._add(place, self._in(self._plain, region))

    @staticmethod
    def _in(forms: Forms, *parts: bytes) -> dict[Group, bytes]:
        """The groups with markers in *parts*, and what is around one of them."""
        found: dict[Group, bytes] = {}
        for part in parts:
            for group, form in forms:
                if group not in found and (at := part.find(form)) >= 0:
                    found[group] = part[max(at - 200, 0) : at + 200]
        return found

    def _add(self, place: str, found: dict[Group, bytes]) -> None:
        for group, around in found.items():
            self.found[group].setdefault(place, around)

    def places(self, group: Group) -> set[str]:
        """The places with markers of *group*."""
        return set(self.found[group])


def _unpacked(data: bytes) -> Iterator[bytes]:
    """Members of gzip and frames of zstd in *data*, also in base64 and in hexadecimal digits."""
    for magic in _MAGIC:
        for at in _positions(magic, data):
            yield _decompressed(data[at : at + _LONGEST_PLAIN])
        for at in _positions(magic.hex().encode(), data):
            digits = _DIGITS.match(data, at)
            yield _decompressed(bytes.fromhex(digits.group().decode()) if digits else b"")
        for at in _positions(in_base64(magic, behind=0), data):
            text = _BASE64.match(data, at)
            whole = text.group()[: len(text.group()) // 4 * 4] if text else b""
            yield _decompressed(base64.b64decode(whole))


def _positions(part: bytes, data: bytes) -> Iterator[int]:
    at = data.find(part)
    while at >= 0:
        yield at
        at = data.find(part, at + 1)


def _decompressed(data: bytes) -> bytes:
    """The begin of what *data* decompresses to; empty if it is no compressed data."""
    try:
        if data.startswith(b"\x1f\x8b"):
            return zlib.decompressobj(31).decompress(data, _LONGEST_PLAIN)
        frame = zstandard.ZstdDecompressor().decompressobj()
        return frame.decompress(data)[:_LONGEST_PLAIN]
    except (zlib.error, zstandard.ZstdError):
        return b""
