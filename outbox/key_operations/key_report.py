"""
What `relay keys status` shows: keys, how many rows need each, and what is wrong.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from outbox.encryption.body_format import KEY_BYTES
from outbox.encryption.key_ring import EncryptionKey, KeyRing
from outbox.encryption.keys import KeyProvider, UnknownKey, WrappedKey, WrongKey
from outbox.encryption.managed_keys import replaced_at, ring_of
from outbox.key_operations.key_usage import KeyUse

OF_SUBJECTS = ""
"""In place of a key id: bodies that keys of subjects have encrypted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyState:
    """
    One key-encryption key, of the source or of a row.

    Args:
        active_from: Since when it may encrypt; None if the source does not say.
        replaced_at: When another key takes its place, or has.
        is_known: Whether the source has it, and it is the one that has encrypted the rows.
        rows: The numbers of rows that need it, by table.
        oldest_at: Since when the oldest of them is there.

    """

    id: str
    active_from: datetime | None
    replaced_at: datetime | None
    is_current: bool
    is_known: bool
    rows: Mapping[str, int]
    oldest_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectKeyCounts:
    """
    The keys of subjects.

    Args:
        by_key: Numbers of active ones, by the key-encryption key that wraps them.
        samples: One of each of them.
        unfinished: Keys whose erasure began, and has not ended.

    """

    by_key: Mapping[str, int]
    samples: Mapping[str, WrappedKey] = field(repr=False)
    unfinished: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysReport:
    """
    The keys at the time *now*.

    Args:
        by_subject_keys: Rows that keys of subjects have encrypted, by table.
        plain: Plain rows by table.
        plain_since: Since when the oldest of them is there.
        malformed: Rows by table that say that they are encrypted, and are too short.
        refuses_plaintext: Whether the outbox refuses plaintext.
        subjects: None without a key database.

    """

    now: datetime
    keys: Sequence[KeyState]
    by_subject_keys: Mapping[str, int]
    plain: Mapping[str, int]
    plain_since: datetime | None
    malformed: Mapping[str, int]
    refuses_plaintext: bool
    subjects: SubjectKeyCounts | None

    @property
    def current(self) -> KeyState | None:
        """The key that encrypts now; None if none is active."""
        return next((key for key in self.keys if key.is_current), None)

    def problems(self, *, max_age: timedelta | None) -> list[str]:
        """Return a line for each fault that a person has to look at."""
        found = []
        if self.current is None:
            found.append("no key is active: see active_from, and `relay keys rotate`")
        elif max_age is not None and self._age_of(self.current) > max_age:
            found.append(f"{self.current.id}: is older than --max-age: `relay keys rotate`")
        found += [
            f"{key.id}: rows need this key, and the source does not have it"
            for key in self.keys
            if not key.is_known
        ]
        if self.subjects is not None and self.subjects.unfinished:
            found.append(
                f"{self.subjects.unfinished:,} erasures have not ended: repeat `relay erase`"
            )
        return found

    def _age_of(self, key: KeyState) -> timedelta:
        return timedelta(0) if key.active_from is None else self.now - key.active_from


def current_id(keys: KeyProvider) -> str:
    """Return the id of the key that encrypts now; may block, raises as `KeyProvider.wrap`."""
    return keys.wrap(os.urandom(KEY_BYTES)).key_id


def key_states(
    keys: KeyProvider,
    uses: Sequence[KeyUse],
    samples: Mapping[str, WrappedKey],
    *,
    subjects: Mapping[str, int],
    now: datetime,
) -> list[KeyState]:
    """
    Return the keys of the source and of all rows, the latest first.

    *samples* has a wrapped key for each key id, *subjects* the numbers of keys of subjects by the
    key that wraps them. It asks the source, and may block; raises KeysUnavailable.
    """
    ring = ring_of(keys)
    of_ring = {} if ring is None else {key.id: key for key in ring.keys}
    current = _current(keys, ring, now)
    used = {use.key_id for use in uses if use.is_encrypted and use.key_id}
    ids = {*of_ring, *used, *subjects} | ({current} if current else set())
    states = [
        _state(
            id_,
            of_ring.get(id_),
            ring,
            [use for use in uses if use.is_encrypted and use.key_id == id_],
            is_current=id_ == current,
            is_known=_is_known(keys, id_, samples, of_ring, current),
            subject_keys=subjects.get(id_, 0),
        )
        for id_ in ids
    ]
    return sorted(states, key=lambda each: (_order(each), each.id), reverse=True)


def totals(uses: Sequence[KeyUse], key_id: str | None, *, is_encrypted: bool) -> dict[str, int]:
    """Return the numbers of rows of one key, by table."""
    return {
        use.table: use.rows
        for use in uses
        if use.key_id == key_id and use.is_encrypted is is_encrypted
    }


def _current(keys: KeyProvider, ring: KeyRing | None, now: datetime) -> str | None:
    if ring is not None and all(key.active_from > now for key in ring.keys):
        return None
    return current_id(keys)


def _is_known(
    keys: KeyProvider,
    id_: str,
    samples: Mapping[str, WrappedKey],
    of_ring: Mapping[str, EncryptionKey],
    current: str | None,
) -> bool:
    if id_ not in samples:
        return id_ in of_ring or id_ == current
    try:
        keys.unwrap(samples[id_])
    except (UnknownKey, WrongKey):
        return False
    return True


def _state(
    id_: str,
    key: EncryptionKey | None,
    ring: KeyRing | None,
    uses: Sequence[KeyUse],
    *,
    is_current: bool,
    is_known: bool,
    subject_keys: int,
) -> KeyState:
    rows = totals(uses, id_, is_encrypted=True)
    if subject_keys:
        rows["subject_keys"] = subject_keys
    return KeyState(
        id=id_,
        active_from=None if key is None else key.active_from,
        replaced_at=None if key is None or ring is None else replaced_at(ring, key),
        is_current=is_current,
        is_known=is_known,
        rows=rows,
        oldest_at=min((use.oldest_at for use in uses), default=None),
    )


def _order(each: KeyState) -> float:
    return 0.0 if each.active_from is None else each.active_from.timestamp()
