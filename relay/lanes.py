"""
In which order the rows of a batch may be published: pure.

Rows of one ordering key go one after another, each after its predecessor was acked.
Different keys, and rows without a key, go side by side.
"""

from collections import defaultdict
from collections.abc import Sequence

from relay.storage.base import Row


def waves(rows: Sequence[Row]) -> list[list[Row]]:
    """
    Split *rows*, which are in claim order, so that no wave holds two rows of one key.

    The k-th row of a key is in wave k; rows without a key are in the first.
    """
    result: list[list[Row]] = [[]] if rows else []
    seen: dict[str, int] = defaultdict(int)
    for row in rows:
        wave = 0
        if row.ordering_key is not None:
            wave = seen[row.ordering_key]
            seen[row.ordering_key] += 1
        if wave == len(result):
            result.append([])
        result[wave].append(row)
    return result
