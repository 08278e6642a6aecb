"""
Which priority a claim begins with, so that urgent rows go first and none waits for ever: pure.

A claim takes rows of high priority first, then normal ones, then low ones, until it is full. While
claims are full, the rows that others leave no room for are owed a share of them:

    normal   a quarter of the claims
    low      a sixteenth of the claims

When a whole claim is owed, the next claim begins with that priority. Claims that are not full took
all rows, so nothing is owed.
"""

from collections.abc import Collection, Mapping, Sequence

from outbox.event import Priority

URGENT_FIRST = (Priority.HIGH, Priority.NORMAL, Priority.LOW)
SHARES = {Priority.LOW: 1 / 16, Priority.NORMAL: 1 / 4}
"""The part of full claims that rows of a priority get at least, while they wait."""


class PriorityTurns:
    """The turns of the priorities in the claims of one scan."""

    def __init__(self) -> None:
        self._owed = dict.fromkeys(SHARES, 0.0)

    def order(self) -> Sequence[Priority]:
        """The priorities in the order in which the next claim takes their rows."""
        first = next(
            (each for each, share in SHARES.items() if self._owed[each] + share >= 1),
            Priority.HIGH,
        )
        return (first, *(each for each in URGENT_FIRST if each is not first))

    def claimed(self, rows: Mapping[Priority, int], *, waiting: Collection[Priority]) -> None:
        """
        Record a claim with numbers of *rows* by priority.

        *waiting* are the priorities of which it may have left rows.
        """
        total = max(sum(rows.values()), 1)
        for each, share in SHARES.items():
            owed = self._owed[each] + share - rows.get(each, 0) / total
            self._owed[each] = max(owed, 0.0) if each in waiting else 0.0
