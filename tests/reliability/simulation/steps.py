"""
Names each step of the product in a database, by its statement.
"""

import re
from functools import lru_cache

_STEPS = (
    (r"SAVEPOINT|RELEASE|ROLLBACK", "savepoint"),
    (r"BEGIN", "begin"),
    (r"INSERT INTO outbox\b", "add"),
    (r"UPDATE outbox SET .*\battempts\b", "postpone"),
    (r"UPDATE outbox\b", "promote"),
    (r"DELETE FROM outbox\b", "settle"),
    (r"INSERT INTO processed_messages\b.*RETURNING (processed_messages\.)?attempts", "lease"),
    (r"INSERT INTO processed_messages\b", "record"),
    (r"UPDATE processed_messages SET processing_duration_seconds", "note"),
    (r"UPDATE processed_messages\b", "lease"),
    (r"DELETE FROM processed_messages\b", "purge"),
    (r"INSERT INTO dead_letters\b", "dead_letter"),
    (r"DELETE FROM dead_letters\b", "replay_delete"),
    (r"UPDATE dead_letters SET ordering_key\b", "expire_bodies"),
    (r"(INSERT INTO|UPDATE|DELETE FROM) begun_deliveries\b", "count"),
    (r"INSERT INTO failing_messages\b", "note"),
    (r"DELETE FROM failing_messages\b.*\bSELECT\b", "purge"),
    (r"DELETE FROM failing_messages\b", "record"),
    (r"INSERT INTO parked_messages\b", "park"),
    (r"UPDATE parked_messages\b", "park_longer"),
    (r"DELETE FROM parked_messages\b", "unpark"),
    (r"INSERT INTO (audit_log|audit_head)\b", "audit"),
    (r"INSERT INTO outbox_targets\b", "register"),
    (r"(INSERT INTO|UPDATE|DELETE FROM) outbox_processes\b", "register"),
    (r"INSERT INTO effects\b", "effect"),
    (r"(SELECT|WITH)\b.*\bparked_messages\b", "look_for_parked"),
    (r"SELECT dead_letters\.reason, count\b", "look"),
    (r"(SELECT|WITH)\b.*\bdead_letters\b", "look_for_letters"),
    (r"(SELECT|WITH)\b.*\boutbox\b.*\bbody\b", "claim"),
    (r"(SELECT|WITH)\b.*\bordering_key\b", "visit"),
)  # fmt: skip
_COMPILED = [(re.compile(pattern, re.DOTALL), step) for pattern, step in _STEPS]
LOOK = "look"
"""Any other statement, which changes nothing."""

_WEIGHT = (
    "settle",
    "postpone",
    "dead_letter",
    "replay_delete",
    "expire_bodies",
    "unpark",
    "park",
    "park_longer",
    "effect",
    "lease",
    "record",
    "add",
    "purge",
    "note",
    "promote",
    "audit",
    "count",
    "register",
)
"""What a transaction is called after: the first of these that it has done."""


@lru_cache(maxsize=1_000)
def step_of(statement: str) -> str | None:
    """The step of *statement*; None if it neither reads nor changes rows."""
    if statement.startswith("PRAGMA"):
        return None
    return next((step for pattern, step in _COMPILED if pattern.match(statement)), LOOK)


def commit_of(steps: set[str]) -> str:
    """The name of the COMMIT of a transaction with these *steps*."""
    return f"commit_{next((step for step in _WEIGHT if step in steps), LOOK)}"
