"""
The order in which the rows of a batch may be published: pure.

Rows of one ordering key are published one after another, each after the broker acked the one
before. Rows of different keys, and rows without a key, are published at the same time.
"""

from collections import defaultdict
from collections.abc import Sequence

from relay.row import Row

SMALLEST_SHARE = 8
"""A wave is published if it has at least one row for this many rows of the first wave."""


def is_worth_while(rows: int, *, first: int) -> bool:
    """Whether a wave of *rows* may follow one of *first* rows, which it delays."""
    return rows * SMALLEST_SHARE >= first


def waves(rows: Sequence[Row]) -> list[list[Row]]:
    """
    Split *rows*, which are in claim order, so that no wave holds two rows of one key.

    The k-th row of a key is in wave k; rows without a key are in the first.

    The relay settles the batch when its last wave is confirmed. A few keys with many rows must not
    delay all other rows, so waves that are small compared with the first are left out: another
    claim takes their rows.
    """
    if all(row.ordering_key is None for row in rows):
        return [list(rows)] if rows else []
    result: list[list[Row]] = [[]]
    seen: dict[str, int] = defaultdict(int)
    for row in rows:
        wave = 0
        if row.ordering_key is not None:
            wave = seen[row.ordering_key]
            seen[row.ordering_key] += 1
        if wave == len(result):
            result.append([])
        result[wave].append(row)
    return [wave for wave in result if is_worth_while(len(wave), first=len(result[0]))]


MOST_ROWS_OF_A_KEY = 16
"""They are published one after another, and the rest of the batch waits for them to be settled."""


def rows_of_a_key(keys: int, *, limit: int, beside: int) -> int:
    """
    How many rows to claim of each of *keys*, in a batch with *beside* other rows; pure.

    Each needs a wave of its own, so it is no more than the relay will publish.
    """
    if not is_worth_while(keys, first=keys + beside):
        return 1
    return min(max(limit // keys, 1), MOST_ROWS_OF_A_KEY)
