"""
The wire recorder: published messages, and leaked health data.
"""

import pamqp.frame
import pytest
from pamqp.base import Frame
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from tests.reliability.history import Leaked, Published, Record
from tests.reliability.leak_marker import LEAK_MARKER
from tests.reliability.wire_recorder import WireRecorder
from tests.support.network_conditions import Side
from tests.support.proxy import Link

LINK = Link({}, {})
PUBLISH = Basic.Publish(exchange="x", routing_key="k")


def a_header(message_id: str | None, **properties: object) -> ContentHeader:
    return ContentHeader(0, 10, Basic.Properties(message_id=message_id, **properties))


def observed(
    *frames: tuple[Side, int, Frame | ContentHeader | bytes], counting: bool = True
) -> list[Record]:
    """The records of a tap for *frames*: each with its sender and its channel."""
    records: list[Record] = []
    tap = WireRecorder(records.append, counting=counting)
    for side, channel, frame in frames:
        tap(LINK, side, frame if isinstance(frame, bytes) else pamqp.frame.marshal(frame, channel))
    return records


def ids(records: list[Record]) -> list[str]:
    return [record.id for record in records if isinstance(record, Published)]


def test_each_publish_is_recorded_with_its_message_id():
    frames = [
        (Side.CLIENT, 1, PUBLISH),
        (Side.CLIENT, 1, a_header("a")),
        (Side.CLIENT, 1, PUBLISH),
        (Side.CLIENT, 1, a_header("b")),
    ]

    assert ids(observed(*frames)) == ["a", "b"]


def test_publishes_of_two_channels_may_be_mixed():
    frames = [
        (Side.CLIENT, 1, PUBLISH),
        (Side.CLIENT, 2, PUBLISH),
        (Side.CLIENT, 2, a_header("b")),
        (Side.CLIENT, 1, a_header("a")),
    ]

    assert ids(observed(*frames)) == ["b", "a"]


@pytest.mark.parametrize("counting", [True, False])
def test_frames_of_the_broker_and_copies_of_consumers_are_not_recorded(counting):
    side = Side.SERVER if counting else Side.CLIENT
    frames = [(side, 1, PUBLISH), (side, 1, a_header("a"))]

    assert observed(*frames, counting=counting) == []


def test_a_message_without_an_id_is_recorded_too():
    assert ids(observed((Side.CLIENT, 1, PUBLISH), (Side.CLIENT, 1, a_header(None)))) == [""]


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize(
    "frame",
    [
        Basic.Publish(exchange="x", routing_key=LEAK_MARKER.decode()),
        a_header("a", headers={"note": LEAK_MARKER.decode()}),
        a_header(LEAK_MARKER.decode()),
    ],
)
def test_health_data_outside_of_a_body_is_a_leak_on_either_side(side, frame):
    (leak,) = observed((side, 1, frame), counting=False)

    assert isinstance(leak, Leaked)
    assert LEAK_MARKER.decode() not in leak.where


def test_health_data_in_a_body_is_no_leak():
    body = b"\x03\0\x01" + len(LEAK_MARKER).to_bytes(4, "big") + LEAK_MARKER + b"\xce"

    assert observed((Side.CLIENT, 1, body)) == []
