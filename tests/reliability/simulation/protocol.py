"""
The protocols, step by step: the requests of each process to its servers, roughly in order.

A test runs a scenario that passes all of them, and fails when the product takes a step that is not
listed here. Then each step is a crash point. A COMMIT is named after the main step of its
transaction: `commit_settle` commits the transaction that settles.
"""

_TO_BE_READY = ("look", "declare", "connect")
_FORGETTING = ("purge", "commit_purge")
_CONSUMING = ("subscribe", "widen", "deliver", "begin", "ack", "copy", "record")
_GIVING_UP = ("bury", "commit_bury")

STEPS = {
    # Events and the effects that they tell of, in one transaction.
    "producer": ("begin", "add", "commit_add"),
    # Claim, publish, settle; what is unroutable waits, and is given up in the end.
    "relay": (
        *_TO_BE_READY,
        *("begin", "visit", "claim", "publish"),
        *("settle", "postpone", "bury", "commit_settle", "commit_postpone"),
        *("promote", "commit_promote"),
    ),
    # The record and the effects in one transaction, then the ack; or a copy, then the ack.
    "etl": (
        *_TO_BE_READY,
        *_CONSUMING,
        *("handle", "effect", "commit_effect"),
        *("duration", "commit_duration"),
        *_GIVING_UP,
        *_FORGETTING,
    ),
    # The same, but what has failed waits in the database, and with it what is behind it.
    "ledger": (
        *_TO_BE_READY,
        *(step for step in _CONSUMING if step != "widen"),
        *("handle", "effect", "commit_effect"),
        *("duration", "commit_duration"),
        *("park", "commit_park", "look_for_parked", "savepoint", "unpark", "commit_unpark"),
        *_GIVING_UP,
        *_FORGETTING,
    ),
    # A lease, the effects outside, the end of the lease; then the ack.
    "mail": (
        *_TO_BE_READY,
        *_CONSUMING,
        *("lease", "commit_lease", "handle"),
        *_GIVING_UP,
        *_FORGETTING,
    ),
    # A run is written down; letters are sent or recorded again, and removed with a COMMIT.
    "operator": (
        *("begin", "look", "connect", "look_for_letters"),
        *("audit", "commit_audit", "publish", "add", "exhume", "commit_exhume"),
        *_FORGETTING,
    ),
}

_ANSWERED_SILENTLY = frozenset({"declare", "connect", "subscribe", "widen"})
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
