"""
The frame reader takes the deliveries of its channel and passes on all other bytes.
"""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from pamqp.body import ContentBody
from pamqp.commands import Basic, Channel
from pamqp.frame import marshal
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from outbox.transports.delivery import Delivery
from outbox.transports.rabbitmq.frame_decoder import MALFORMED
from outbox.transports.rabbitmq.frame_reader import HEARTBEAT, HEARTBEAT_EVERY_SECONDS, FrameReader
from tests.support.frames import bodies, deliver, frame, header

OURS, OTHER = 3, 4
FLAGS = Basic.Properties.flags


@dataclass
class Connection:
    """The output of a frame reader whose clock stands still."""

    now: float = 0.0
    rest: bytes = b""
    deliveries: list[Delivery] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tap = FrameReader(self._hand_on, clock=lambda: self.now)
        self.tap.follow(OURS, self.deliveries.extend)

    def _hand_on(self, data: bytes) -> None:
        self.rest += data

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.message.body for delivery in self.deliveries]


def message(tag: int, body: bytes = b"{}", *, channel: int = OURS, at_most: int = 8) -> bytes:
    return b"".join(
        [
            deliver(channel, tag),
            header(channel, len(body), FLAGS["priority"], b"\x04"),
            *bodies(channel, body, at_most=at_most),
        ]
    )


def others() -> list[bytes]:
    """Frames that the frame reader passes on, some of them on its channel."""
    answer = Basic.Return(312, "NO_ROUTE", "", "nowhere")
    return [
        marshal(Heartbeat(), 0),
        marshal(Basic.ConsumeOk("ctag"), OURS),
        marshal(Basic.Cancel("ctag", nowait=True), OURS),
        marshal(Channel.Close(406, "timeout", 0, 0), OURS),
        marshal(answer, OURS) + marshal(ContentHeader(body_size=1), OURS)
        + marshal(ContentBody(b"x"), OURS),
        message(1, b"of another channel", channel=OTHER),
    ]  # fmt: skip


@given(
    st.lists(st.sampled_from(others()) | st.binary(max_size=30), max_size=12),
    st.lists(st.integers(1, 40), max_size=60),
)
def test_the_frame_reader_takes_deliveries_and_passes_on_other_frames_in_any_chunks(parts, cuts):
    sent = [body for body in parts if body not in others()]
    stream = b"".join(
        part if part in others() else message(number, part) for number, part in enumerate(parts, 1)
    )
    connection = Connection(now=-1.0)
    for cut in cuts:
        connection.tap.feed(stream[:cut])
        stream = stream[cut:]
    connection.tap.feed(stream)

    assert connection.bodies == sent
    assert connection.rest == b"".join(part for part in parts if part in others())


def test_frames_of_other_channels_may_come_between_those_of_a_delivery():
    first, second = message(1, b"abcdefghij"), message(2, b"other", channel=OTHER)
    cut = len(deliver(OURS, 1))
    connection = Connection(now=-1.0)

    connection.tap.feed(first[:cut] + second + first[cut:])

    assert connection.bodies == [b"abcdefghij"]
    assert connection.rest == second


def test_the_frame_reader_takes_no_delivery_before_it_follows_the_channel():
    rest: list[bytes] = []
    tap = FrameReader(rest.append, clock=lambda: -1.0)

    tap.feed(message(1))

    assert b"".join(rest) == message(1)
    assert tap.received


def test_a_large_body_in_small_chunks_arrives_whole():
    body = bytes(range(256)) * 4096
    stream = message(1, body, at_most=131_064)
    connection = Connection()

    for start in range(0, len(stream), 1448):
        connection.tap.feed(stream[start : start + 1448])

    assert connection.bodies == [body]


def test_an_unreadable_message_arrives_with_a_decode_error_between_its_neighbours():
    hostile = deliver(OURS, 2) + header(OURS, 0, 0xFFFF, b"\xff" * 40)
    connection = Connection()

    connection.tap.feed(message(1, b"before") + hostile + message(3, b"after"))

    assert connection.bodies == [b"before", b"", b"after"]
    assert [delivery.decode_error for delivery in connection.deliveries] == [None, MALFORMED, None]
    assert [delivery.tag for delivery in connection.deliveries] == [1, 2, 3]


def test_a_heartbeat_replaces_several_chunks_that_the_reader_keeps():
    connection = Connection(now=100.0)

    for _ in range(50):
        connection.tap.feed(message(1))
    assert connection.rest == HEARTBEAT

    connection.now += HEARTBEAT_EVERY_SECONDS
    connection.tap.feed(message(1)[:5])
    assert connection.rest == HEARTBEAT * 2


def test_no_heartbeat_is_inserted_inside_a_frame():
    connection = Connection(now=100.0)
    close = marshal(Channel.Close(406, "timeout", 0, 0), OURS)

    connection.tap.feed(close[:9])
    connection.tap.feed(close[9:])

    assert connection.rest == HEARTBEAT + close


def test_bytes_that_are_no_frame_are_left_to_the_client_library():
    refusal = b"AMQP\x00\x00\x09\x01"
    wrong_end = frame(8, 0, b"")[:-1] + b"\x00"
    for garbage in (refusal, wrong_end):
        connection = Connection(now=-1.0)
        connection.tap.feed(message(1) + garbage)
        connection.tap.feed(message(2))

        assert connection.bodies == [b"{}"]
        assert connection.rest == garbage + message(2)
        assert connection.tap.out_of_sync


def test_content_without_a_deliver_method_is_left_to_the_client_library():
    stray = header(OURS, 1, 0, b"") + frame(3, OURS, b"x")
    connection = Connection(now=-1.0)

    connection.tap.feed(stray + message(1))

    assert connection.rest == stray
    assert connection.bodies == [b"{}"]
