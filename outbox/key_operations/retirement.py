"""
Whether a key may be removed from its source: pure.

Rows that need it are known. Messages in the broker are not: they may be as old as the queues keep
them, so a key stays for a time after another one has replaced it.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from outbox.encryption.key_ring import KeyRing
from outbox.encryption.managed_keys import replaced_at
from outbox.errors import ConfigurationError

REPLACED_FOR = timedelta(days=7)
"""By default a key is removed when another one has replaced it for this long."""


def check(
    ring: KeyRing,
    key_id: str,
    rows: Mapping[str, int],
    *,
    now: datetime,
    replaced_for: timedelta,
    force: bool,
) -> None:
    """
    Raise ConfigurationError if the key *key_id*, which *rows* by table need, has to stay.

    With *force* only the key stays that encrypts now, and one that does not exist.
    """
    key = next((each for each in ring.keys if each.id == key_id), None)
    if key is None:
        raise ConfigurationError("KEYID: the source has no key with this id")
    active = [each for each in ring.keys if each.active_from <= now]
    if active and key is active[-1]:
        raise ConfigurationError("KEYID: the key encrypts now: `relay keys rotate` first")
    if force or key.active_from > now:
        return
    if any(rows.values()):
        where = ", ".join(f"{number:,} of {table}" for table, number in rows.items() if number)
        raise ConfigurationError(
            f"KEYID: rows need the key ({where}): `relay keys rewrap`, or --force, after which"
            " they can be read no more"
        )
    since = replaced_at(ring, key)
    if since is None or now - since < replaced_for:
        raise ConfigurationError(
            "KEYID: was replaced less than --replaced-for ago (7d unless given), and messages in"
            " the broker may need it: wait, or give a shorter --replaced-for once no queue has a"
            " message of that time"
        )
