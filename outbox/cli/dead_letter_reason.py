"""
Who uses a command on dead letters, and why.
"""

from outbox.audit.log import Audit, user_and_host
from outbox.dead_letters.selection import Selection, words
from outbox.dead_letters.source import DeadLetterSource

FOR_BODIES = "is needed to see bodies: give the reason, which is stored"
FOR_KEYS = "is needed with --key: give the reason, which is stored"
FOR_CHANGES = "is needed: give the reason, which is stored"


def audit_of_search(
    source: DeadLetterSource, selected: Selection, because: str | None, by: str | None
) -> Audit[Selection] | None:
    """Return the audit of a search by key, whose result concerns a person; None for others."""
    if selected.key is None:
        return None
    return audit_of(source, selected, because, by, needed=FOR_KEYS)


def audit_of(
    source: DeadLetterSource,
    selected: Selection,
    because: str | None,
    by: str | None,
    *,
    needed: str,
) -> Audit[Selection]:
    """
    Return the audit of one run; *needed* says why it needs a reason.

    Raises ConfigurationError if the reason or the actor is empty.
    """
    return Audit(
        actor=words("--by", user_and_host() if by is None else by, needed="is empty"),
        because=words("--because", because, needed=needed),
        source=source.name,
        selection=selected,
    )
