"""
The effects of network conditions on data.
"""

from datetime import timedelta

import pytest

from tests.support.network_conditions import UNIMPAIRED, NetworkConditions

DATA = bytes(range(100))


@pytest.mark.parametrize(
    ("conditions", "sizes"),
    [
        (UNIMPAIRED, [100]),
        (NetworkConditions(piece_bytes=7), [7] * 14 + [2]),
        (NetworkConditions(bytes_per_second=400), [20] * 5),
        (NetworkConditions(bytes_per_second=1), [1] * 100),
        (NetworkConditions(bytes_per_second=400, piece_bytes=50), [20] * 5),
    ],
)
def test_data_arrives_in_order_and_in_pieces_of_the_right_size(conditions, sizes):
    pieces = list(conditions.pieces(DATA))

    assert b"".join(pieces) == DATA
    assert list(map(len, pieces)) == sizes


def test_empty_data_has_no_pieces_under_any_conditions():
    assert list(NetworkConditions(piece_bytes=7).pieces(b"")) == []


@pytest.mark.parametrize(
    ("conditions", "seconds"),
    [
        (UNIMPAIRED, 0),
        (NetworkConditions(delay=timedelta(seconds=2)), 2),
        (NetworkConditions(delay=timedelta(seconds=2), jitter=timedelta(seconds=4)), 3),
        (NetworkConditions(bytes_per_second=50), 2),
    ],
)
def test_a_piece_is_under_way_for_its_delay_some_of_the_jitter_and_by_its_size(
    conditions, seconds
):
    assert conditions.pause(DATA, jitter=0.25) == seconds
