"""
The filters that choose dead letters: from command-line options to SQL.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
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
    """The time of the database and the newest dead letter when a command began."""

    now: datetime
    newest: int


def _begins(column: sa.Column[Any], text: str, ends: Sequence[str]) -> sa.ColumnElement[bool]:
    """Whether *column* is *text*, or goes on after it with one of *ends*."""
    longer = [column.startswith(text + end, autoescape=True) for end in ends]
    return sa.or_(column == text, *longer)


def _is_key(keys: Sequence[str]) -> sa.ColumnElement[bool]:
    table = dead_letters.c
    return table.idempotency_key.in_(keys) | table.ordering_key.in_(keys)


_CONDITIONS: dict[str, Callable[[Any, datetime], sa.ColumnElement[bool]]] = {
    "type": lambda type_, _now: dead_letters.c.type == type_,
    "reason": lambda reason, _now: dead_letters.c.reason == reason,
    "older_than": lambda age, now: dead_letters.c.last_at <= now - age,
    "newer_than": lambda age, now: dead_letters.c.last_at > now - age,
    "error": lambda error, _now: _begins(dead_letters.c.error_class, error, (" ",)),
    "place": lambda place, _now: _begins(dead_letters.c.error_place, place, (" ", ":")),
    "since": lambda time, _now: dead_letters.c.last_at >= time,
    "until": lambda time, _now: dead_letters.c.last_at < time,
    "keys": lambda keys, _now: _is_key(keys),
}
"""The condition of each filter of a selection, for its value and the time of the snapshot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """
    Filters that a dead letter must all match; without filters every dead letter matches.

    Args:
        older_than: Dead-lettered longer ago than this.
        newer_than: Dead-lettered within this time.
        error: The class of the last error, as in `ValueError`, with or without a SQLSTATE.
        place: The file of the error, or the file and the line.
        since: Dead-lettered at this time or later.
        until: Dead-lettered before this time.
        key: The idempotency key or the ordering key; never shown and never stored.
        digests: What stands for the key in encrypted events.
        limit: Maximum number of dead letters, the oldest first.

    """

    ids: tuple[int, ...] = ()
    type: str | None = None
    reason: str | None = None
    older_than: timedelta | None = None
    newer_than: timedelta | None = None
    error: str | None = None
    place: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    key: str | None = None
    digests: tuple[str, ...] = ()
    limit: int | None = None

    @property
    def keys(self) -> tuple[str, ...] | None:
        """The key and its digests; None if there is no key."""
        return None if self.key is None else (self.key, *self.digests)

    def where(self, source: str, snapshot: Snapshot) -> sa.ColumnElement[bool]:
        """
        Return the condition for dead letters of *source* that existed at *snapshot*.

        A message that fails again during a run is thus not selected by that run a second time.
        """
        table = dead_letters.c
        conditions = [table.source == source, table.id <= snapshot.newest]
        for name, condition in _CONDITIONS.items():
            if (value := getattr(self, name)) is not None:
                conditions.append(condition(value, snapshot.now))
        if self.ids:
            conditions.append(table.id.in_(self.ids))
        return sa.and_(*conditions)

    def to_json(self) -> dict[str, Any]:
        """Return the filters for the audit log: whether a key was given, but not the key."""
        filters = {
            "id": list(self.ids) or None,
            "type": self.type,
            "reason": self.reason,
            "older_than_seconds": _seconds(self.older_than),
            "newer_than_seconds": _seconds(self.newer_than),
            "error": self.error,
            "place": self.place,
            "since": None if self.since is None else self.since.isoformat(),
            "until": None if self.until is None else self.until.isoformat(),
            "key": True if self.key is not None else None,
            "limit": self.limit,
        }
        return {name: value for name, value in filters.items() if value is not None} or {
            "all": True
        }


def selection(options: Mapping[str, Any]) -> Selection:
    """
    Return the selection for the *options* of a command line.

    Raises ConfigurationError, which names the option and never its value.
    """
    limit = options.get("limit")
    return Selection(
        ids=tuple(whole_number("--id", id_) for id_ in options.get("ids") or ()),
        type=_text("--type", options.get("type")),
        reason=_text("--reason", options.get("reason")),
        older_than=duration("--older-than", options.get("older_than")),
        newer_than=duration("--newer-than", options.get("newer_than")),
        error=_text("--error", options.get("error")),
        place=_text("--place", options.get("place")),
        since=instant("--since", options.get("since")),
        until=instant("--until", options.get("until")),
        key=_text("--key", options.get("key")),
        limit=None if limit is None else whole_number("--limit", limit),
    )


def confirm_all(selected: Selection, *, everything: bool) -> Selection:
    """
    Return *selected* before a command changes it.

    Raises ConfigurationError if it matches all dead letters without *everything*, or if both
    *everything* and ids are given.
    """
    if everything and selected.ids:
        raise ConfigurationError("--all: cannot be given together with --id")
    if not everything and selected == Selection():
        raise ConfigurationError("--all: is needed when no filter is given")
    return selected


def whole_number(option: str, text: str) -> int:
    """Parse *text* as a number from 1 on, or raise ConfigurationError, which names *option*."""
    if not _WHOLE_NUMBER.fullmatch(text) or int(text) == 0:
        raise ConfigurationError(f"{option}: must be a whole number from 1 on")
    return int(text)


def words(option: str, text: str | None, *, needed: str) -> str:
    """Return *text* without outer blanks, or raise ConfigurationError with *needed* if empty."""
    if text is None or not text.strip():
        raise ConfigurationError(f"{option}: {needed}")
    return _text(option, text.strip()) or ""


def duration(option: str, text: str | None) -> timedelta | None:
    """Parse a duration such as 15m or 7d, or raise ConfigurationError, which names *option*."""
    if text is None:
        return None
    parts = _DURATION.fullmatch(text)
    found = parts and timedelta(**{_UNITS[parts[2]]: int(parts[1])})
    if not found or found > _LONGEST:
        raise ConfigurationError(f"{option}: must be a duration such as 90s, 15m, 2h or 7d")
    return found


def instant(option: str, text: str | None) -> datetime | None:
    """Parse a time with its time zone, or raise ConfigurationError, which names *option*."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is not None:
            return found.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ConfigurationError(
        f"{option}: must be a time with its time zone such as 2026-03-01T08:30+01:00"
    )


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
