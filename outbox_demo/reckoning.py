"""
The reckoning: what was committed against what was applied. Pure.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from outbox_demo.history import History
from outbox_demo.tables import Record


@dataclass(frozen=True, slots=True)
class Reckoning:
    """
    How a run ended.

    Args:
        committed: Business rows.
        rolled_back: Events of transactions that failed.
        applied: Effects.
        announced_again: Committed events that repeat the idempotency key of another one.
        lost: Idempotency keys without an effect.
        applied_twice: Effects beyond the first of an idempotency key.
        ghosts: Effects of events that were never committed.
        changed: Effects whose size or hash is not that of the business row.
        disputed: Events that either the database or the history says were committed, not both.

    """

    committed: int
    rolled_back: int
    applied: int
    announced_again: int
    lost: int
    applied_twice: int
    ghosts: int
    changed: int
    disputed: int

    @property
    def flawless(self) -> bool:
        """Whether every committed event had its effect, once, and nothing else had any."""
        return not (
            self.lost or self.applied_twice or self.ghosts or self.changed or self.disputed
        )


def reckon(uploads: Sequence[Record], effects: Sequence[Record], history: History) -> Reckoning:
    """Compare the business rows and the *history* of the producer with the *effects*."""
    rows: Mapping[object, Record] = {row.message_id: row for row in uploads}
    wanted = {row.idempotency_key for row in uploads}
    seen = Counter(effect.idempotency_key for effect in effects)
    return Reckoning(
        committed=len(uploads),
        rolled_back=len(history.rolled_back),
        applied=len(effects),
        announced_again=len(uploads) - len(wanted),
        lost=len(wanted - seen.keys()),
        applied_twice=seen.total() - len(seen),
        ghosts=sum(effect.message_id not in rows for effect in effects),
        changed=sum(
            effect != rows[effect.message_id] for effect in effects if effect.message_id in rows
        ),
        disputed=len(history.committed ^ rows.keys()),
    )
