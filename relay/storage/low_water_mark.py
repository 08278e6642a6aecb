"""
Where a claim begins: a hint that spares it the rows that are gone.

Deleted rows stay in the index until vacuum removes them, and while an old snapshot is open it
cannot. A claim that starts at the beginning walks over all of them; one that starts behind the
rows of the last claim does not.

The hint may pass over rows: transactions that commit late have lower ids than others before them,
and a relay that fails lets go of rows that are behind. So a claim starts at the beginning again
each second, when nothing was found, and when rows were let go of. Scans that nothing was let go
for take at most a twentieth of the time, as long as one takes less than a second and a half.
"""

from collections.abc import Callable
from dataclasses import dataclass

FROM_THE_BEGINNING = 0
FULL_SCAN_EVERY_SECONDS = 1.0
FULL_SCAN_SHARE = 20
"""A full scan is followed by this many times its duration without one,"""
LONGEST_WITHOUT_SECONDS = 30.0
"""but by no more than this."""


@dataclass(slots=True)
class LowWaterMark:
    """
    The id above which ready rows are looked for.

    Args:
        clock: Seconds of any origin that never go back.

    """

    clock: Callable[[], float]
    _above: int = FROM_THE_BEGINNING
    _released: bool = True
    _released_at: float = float("-inf")
    _ended: float = 0.0
    _rest: float = 0.0

    def begin(self) -> int:
        """The id above which to look now."""
        is_due = self.clock() >= self._ended + max(self._rest, FULL_SCAN_EVERY_SECONDS)
        return FROM_THE_BEGINNING if self._released or is_due else self._above

    @property
    def has_rested(self) -> bool:
        """Whether a full scan may follow a look that found nothing."""
        return self.clock() >= self._ended + self._rest

    def left_some(self, above: int, *, behind: int, began: float) -> None:
        """A look above *above* has left rows, but none of them up to *behind*."""
        self._scanned(above, began)
        # A look that began beyond the hint, before it was moved back, says nothing of it.
        if above <= self._above:
            self._above = behind

    def exhausted(self, above: int, *, last: int | None, began: float) -> None:
        """A look above *above* has left nothing; the *last* row that was found may be unknown."""
        self._scanned(above, began)
        if last is not None and above <= self._above:
            self._above = max(self._above, last)

    def _scanned(self, above: int, began: float) -> None:
        if above == FROM_THE_BEGINNING:
            # What was let go of meanwhile may have been passed over.
            self._released = self._released and self._released_at > began
            self._ended = self.clock()
            took = self._ended - began
            self._rest = min(FULL_SCAN_SHARE * took, LONGEST_WITHOUT_SECONDS)

    def released(self) -> None:
        """Rows below may be ready again."""
        self._released, self._released_at = True, self.clock()
