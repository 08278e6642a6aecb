"""
The size and the deadline of a relay's batches on a slow network: pure.
"""

from dataclasses import dataclass
from datetime import timedelta

LEAST_ROWS = 2
"""One row without a key and one with a key: neither kind waits for the other."""
LONGEST_DEADLINE = 8
"""The longest deadline, as a multiple of the configured one, beside the time of a slow network."""
SLOW_BYTES_PER_SECOND = 50_000
"""A network of this rate is no reason to publish a batch again."""
LEAST_MEASURED_BYTES = 65_536
"""The time of a smaller publish says little about the network."""


@dataclass(slots=True)
class BatchSize:
    """
    The limits of the next batch: at most *most_rows*, with bodies of at most *most_bytes*.

    They are halved when the outcome of a publish is unknown, because it is published again, and
    when a batch takes longer than half of *timeout*, because its rows are locked that long. They
    are doubled after any other batch.
    """

    most_rows: int
    most_bytes: int
    timeout: timedelta
    rows: int = 0
    bytes: int = 0
    _patience: int = 1
    _seconds_per_byte: float = 0.0

    def __post_init__(self) -> None:
        self.rows, self.bytes = self.most_rows, self.most_bytes

    def deadline(self, size: int) -> timedelta:
        """
        How long the broker may take to confirm messages of *size* bytes.

        It is *timeout*, and twice the time that the last publish needed for as many bytes. It is
        doubled after an unknown outcome. The time that a slow network needs is added, because the
        network may have been fast before, and a proxy may hold what it has not yet delivered.
        """
        expected = timedelta(seconds=2 * self._seconds_per_byte * size)
        wanted = min(self.timeout * self._patience + expected, self.timeout * LONGEST_DEADLINE)
        return wanted + timedelta(seconds=size / SLOW_BYTES_PER_SECOND)

    def measured(self, size: int, *, took: timedelta) -> None:
        """A publish of *size* bytes was confirmed."""
        if size >= LEAST_MEASURED_BYTES:
            self._seconds_per_byte = took.total_seconds() / size

    def published(self, *, rows: int, size: int, took: timedelta, unknown: bool) -> None:
        """A batch of *rows* with bodies of *size* bytes was published, some with no answer."""
        self._patience = min(self._patience * 2, LONGEST_DEADLINE) if unknown else 1
        if unknown or took > self.timeout / 2:
            self.rows = max(min(self.rows, rows) // 2, min(LEAST_ROWS, self.most_rows))
            self.bytes = max(min(self.bytes, size) // 2, 1)
        else:
            self.rows = min(self.rows * 2, self.most_rows)
            self.bytes = min(self.bytes * 2, self.most_bytes)
