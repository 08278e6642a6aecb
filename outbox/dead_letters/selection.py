"""
Which dead letters are meant: filters as people type them, checked, and as SQL.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from outbox.errors import ConfigurationError
from outbox.tables import dead_letters

_DURATION = re.compile(r"([0-9]{1,9})(s|m|h|d)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LONGEST = timedelta(days=36_500)
_WHOLE_NUMBER = re.compile(r"[0-9]{1,18}")
_MAX_TEXT = 1_024


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The database's clock and the newest letter, when a command began."""

    now: datetime
    newest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """
    Filters that all have to fit; without any, every letter is meant.

    Args:
        older_than: Given up longer ago than this.
        newer_than: Given up within this time.
        key: The idempotency key or the ordering key; never shown and never stored.
        limit: At most so many, the oldest first.

    """

    ids: tuple[int, ...] = ()
    type: str | None = None
    reason: str | None = None
    older_than: timedelta | None = None
    newer_than: timedelta | None = None
    key: str | None = None
    limit: int | None = None

    def where(self, source: str, snapshot: Snapshot) -> sa.ColumnElement[bool]:
        """
        The letters of *source* that are meant, as far as they were there at *snapshot*.

        What fails again while a run lasts is thus not taken by it a second time.
        """
        table = dead_letters.c
        conditions = [table.source == source, table.id <= snapshot.newest]
        if self.ids:
            conditions.append(table.id.in_(self.ids))
        if self.type is not None:
            conditions.append(table.type == self.type)
        if self.reason is not None:
            conditions.append(table.reason == self.reason)
        if self.older_than is not None:
            conditions.append(table.last_at <= snapshot.now - self.older_than)
        if self.newer_than is not None:
            conditions.append(table.last_at > snapshot.now - self.newer_than)
        if self.key is not None:
            conditions.append(
                (table.idempotency_key == self.key) | (table.ordering_key == self.key)
            )
        return sa.and_(*conditions)

    def described(self) -> dict[str, Any]:
        """What the audit keeps of it: that a key was given, and not which."""
        said = {
            "id": list(self.ids) or None,
            "type": self.type,
            "reason": self.reason,
            "older_than_seconds": _seconds(self.older_than),
            "newer_than_seconds": _seconds(self.newer_than),
            "key": True if self.key is not None else None,
            "limit": self.limit,
        }
        return {name: value for name, value in said.items() if value is not None} or {"all": True}


def selection(options: Mapping[str, Any]) -> Selection:
    """
    The selection that *options* of a command line ask for.

    Raises ConfigurationError, which names the option and never its value.
    """
    limit = options.get("limit")
    return Selection(
        ids=tuple(whole_number("--id", id_) for id_ in options.get("ids") or ()),
        type=_text("--type", options.get("type")),
        reason=_text("--reason", options.get("reason")),
        older_than=duration("--older-than", options.get("older_than")),
        newer_than=duration("--newer-than", options.get("newer_than")),
        key=_text("--key", options.get("key")),
        limit=None if limit is None else whole_number("--limit", limit),
    )


def deliberate(selected: Selection, *, everything: bool) -> Selection:
    """
    *selected*, which is about to be changed.

    Raises ConfigurationError if all letters are meant without its being said.
    """
    if everything and selected.ids:
        raise ConfigurationError("--all: cannot be given together with --id")
    if not everything and selected == Selection():
        raise ConfigurationError("--all: is needed when no filter is given")
    return selected


def whole_number(option: str, text: str) -> int:
    """Raises ConfigurationError, which names *option*, unless *text* is a number from 1 on."""
    if not _WHOLE_NUMBER.fullmatch(text) or int(text) == 0:
        raise ConfigurationError(f"{option}: must be a whole number from 1 on")
    return int(text)


def words(option: str, text: str | None, *, needed: str) -> str:
    """Raises ConfigurationError, which names *option*, unless *text* says something."""
    if text is None or not text.strip():
        raise ConfigurationError(f"{option}: {needed}")
    return _text(option, text.strip()) or ""


def duration(option: str, text: str | None) -> timedelta | None:
    """Raises ConfigurationError, which names *option*, unless *text* is such as 15m or 7d."""
    if text is None:
        return None
    parts = _DURATION.fullmatch(text)
    found = parts and timedelta(**{_UNITS[parts[2]]: int(parts[1])})
    if not found or found > _LONGEST:
        raise ConfigurationError(f"{option}: must be a duration such as 90s, 15m, 2h or 7d")
    return found


def _text(option: str, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ConfigurationError(f"{option}: is not valid Unicode") from None
    if size > _MAX_TEXT:
        raise ConfigurationError(f"{option}: is longer than {_MAX_TEXT} bytes")
    return text


def _seconds(duration: timedelta | None) -> int | None:
    return None if duration is None else int(duration.total_seconds())
