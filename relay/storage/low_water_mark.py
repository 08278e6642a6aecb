"""
The id above which a claim starts to read: a hint that spares it the rows that are deleted.

Deleted rows stay in the index until vacuum removes them, and while an old snapshot is open vacuum
cannot. A scan from the beginning walks over all of them; one that starts behind the rows of the
last claim does not.

The hint may skip ready rows: a transaction that commits late has lower ids than others that
committed before it, and a relay that fails releases rows below the hint. So a claim scans from the
beginning again each second, when it finds no rows, and when rows were released. Full scans that
follow no release take at most a twentieth of the time, as long as one takes less than a second and
a half.
"""

from collections.abc import Callable
from dataclasses import dataclass

from relay.scan_rest import rest_after

FROM_THE_BEGINNING = 0
FULL_SCAN_EVERY_SECONDS = 1.0


@dataclass(slots=True)
class LowWaterMark:
    """
    The id above which a scan reads ready rows.

    Args:
        clock: Seconds of any origin that never go back.

    """

    clock: Callable[[], float]
    _above: int = FROM_THE_BEGINNING
    _released: bool = True
    _released_at: float = float("-inf")
    _ended: float = 0.0
    _rest: float = 0.0

    def next_start(self) -> int:
        """The id above which the next scan reads."""
        is_due = self.clock() >= self._ended + max(self._rest, FULL_SCAN_EVERY_SECONDS)
        return FROM_THE_BEGINNING if self._released or is_due else self._above

    @property
    def may_scan_fully(self) -> bool:
        """Whether a full scan may follow a scan that found no rows."""
        return self.clock() >= self._ended + self._rest

    def stopped_at(self, last: int, *, above: int, began: float) -> None:
        """A scan above *above* left ready rows, but none with an id up to *last*."""
        self._scanned(above, began)
        # A scan that began above the hint, before the hint moved back, missed the rows below.
        if above <= self._above:
            self._above = last

    def exhausted(self, *, above: int, last: int | None, began: float) -> None:
        """A scan above *above* left no ready row; its *last* row is None if it is unknown."""
        self._scanned(above, began)
        if last is not None and above <= self._above:
            self._above = max(self._above, last)

    def _scanned(self, above: int, began: float) -> None:
        if above == FROM_THE_BEGINNING:
            # This scan may have skipped rows that were released while it ran.
            self._released = self._released and self._released_at > began
            self._ended = self.clock()
            self._rest = rest_after(self._ended - began)

    def released(self) -> None:
        """Rows below the hint may be ready again."""
        self._released, self._released_at = True, self.clock()
