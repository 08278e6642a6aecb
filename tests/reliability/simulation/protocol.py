"""
The protocols, step by step: the requests of each process to its servers, roughly in order.

A test runs a scenario that passes all of them, and fails when the product takes a step that is not
listed here. Then each step is a crash point. A COMMIT is named after the main step of its
transaction: `commit_settle` commits the transaction that settles.
"""

_TO_BE_READY = ("look", "register", "commit_register", "declare", "connect")
_PURGING = ("purge", "commit_purge")
_CONSUMING = ("subscribe", "deliver", "begin", "ack", "copy", "record")
_COUNTING = ("count", "commit_count")
# Durations and failures, for people: they may be missing.
_NOTING = ("note", "commit_note")
_DEAD_LETTERING = ("dead_letter", "commit_dead_letter")

STEPS = {
    # Events and the business rows that they describe, in one transaction.
    "producer": ("begin", "add", "commit_add"),
    # Claim, publish, settle; an unroutable event waits, and is dead-lettered in the end.
    "relay": (
        *_TO_BE_READY,
        *("begin", "visit", "claim", "publish"),
        *("settle", "postpone", "dead_letter", "commit_settle", "commit_postpone"),
        *("promote", "commit_promote"),
    ),
    # The record and the effects in one transaction, then the ack; or a copy, then the ack.
    "etl": (
        *_TO_BE_READY,
        *_CONSUMING,
        *("handle", "effect", "commit_effect"),
        *_NOTING,
        *_DEAD_LETTERING,
        *_COUNTING,
        *_PURGING,
    ),
    # The same, but a failed message is parked, and so are its successors.
    "ledger": (
        *_TO_BE_READY,
        *_CONSUMING,
        *("handle", "effect", "commit_effect"),
        *_NOTING,
        *("park", "commit_park", "look_for_parked", "savepoint", "unpark", "commit_unpark"),
        *_DEAD_LETTERING,
        *_COUNTING,
        *_PURGING,
    ),
    # A lease, the effects outside, the end of the lease; then the ack.
    "mail": (
        *_TO_BE_READY,
        *_CONSUMING,
        *("lease", "commit_lease", "handle"),
        *_NOTING,
        *_DEAD_LETTERING,
        *_COUNTING,
        *_PURGING,
    ),
    # A run is written down; letters are sent or recorded again, and removed with a COMMIT.
    "operator": (
        *("begin", "look", "connect", "look_for_letters"),
        *("audit", "commit_audit", "publish", "add", "replay_delete", "commit_replay_delete"),
        *_PURGING,
    ),
}

_ANSWERED_SILENTLY = frozenset({"declare", "connect", "subscribe"})
_UNASKED = frozenset({"deliver"})


def points(role: str) -> list[str]:
    """The fault points of a process of *role*."""
    found = []
    for step in STEPS[role]:
        if step not in _UNASKED:
            found.append(f"{role}.{step}.sent")
        if step not in _ANSWERED_SILENTLY:
            found.append(f"{role}.{step}.answered")
    return found
