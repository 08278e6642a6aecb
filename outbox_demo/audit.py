"""
The audit of a run: committed events compared with applied effects. Pure.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from outbox_demo.history import History
from outbox_demo.tables import Record


@dataclass(frozen=True, slots=True)
class Audit:
    """
    The result of a run.

    Args:
        committed: Business rows.
        rolled_back: Events of transactions that were rolled back.
        applied: Effects.
        repeated: Committed events that repeat the idempotency key of another one.
        lost: Idempotency keys without an effect.
        applied_twice: Effects beyond the first of an idempotency key.
        uncommitted: Effects of events that were never committed.
        changed: Effects whose size or hash differs from the business row.
        inconsistent: Events that only one of database and producer's history has as committed.

    """

    committed: int
    rolled_back: int
    applied: int
    repeated: int
    lost: int
    applied_twice: int
    uncommitted: int
    changed: int
    inconsistent: int

    @property
    def passed(self) -> bool:
        """Whether every committed event had its effect, once, and no other event had any."""
        return not (
            self.lost
            or self.applied_twice
            or self.uncommitted
            or self.changed
            or self.inconsistent
        )


def audit(uploads: Sequence[Record], effects: Sequence[Record], history: History) -> Audit:
    """Compare the business rows and the *history* of the producer with the *effects*."""
    rows: Mapping[object, Record] = {row.message_id: row for row in uploads}
    expected = {row.idempotency_key for row in uploads}
    applied = Counter(effect.idempotency_key for effect in effects)
    return Audit(
        committed=len(uploads),
        rolled_back=len(history.rolled_back),
        applied=len(effects),
        repeated=len(uploads) - len(expected),
        lost=len(expected - applied.keys()),
        applied_twice=applied.total() - len(applied),
        uncommitted=sum(effect.message_id not in rows for effect in effects),
        changed=sum(
            effect != rows[effect.message_id] for effect in effects if effect.message_id in rows
        ),
        inconsistent=len(history.committed ^ rows.keys()),
    )
