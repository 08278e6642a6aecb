"""
Breakpoints: splitting streams into messages, and recognising them.
"""

import struct

import pamqp.frame
import pytest
from pamqp import commands
from pamqp.base import Frame
from pamqp.commands import Basic

from tests.support import wire_protocols
from tests.support.breakpoints import Breakpoint
from tests.support.network_conditions import Side
from tests.support.proxy import Link


def typed(kind: bytes, text: bytes) -> bytes:
    return kind + struct.pack(">I", 4 + len(text) + 1) + text + b"\0"


def untyped(code: int, text: bytes = b"") -> bytes:
    return struct.pack(">II", 8 + len(text), code) + text


def marshalled(frame: Frame, channel: int = 1) -> bytes:
    return pamqp.frame.marshal(frame, channel)


STARTUP = [untyped(80877103), untyped(196608, b"user\0me\0\0")]
COMMIT = typed(b"Q", b"COMMIT;")
INSERT = typed(b"Q", b"INSERT INTO effects VALUES (1)")
POSTGRES = [*STARTUP, typed(b"Q", b"BEGIN;"), INSERT, COMMIT, typed(b"X", b"")]
AMQP = [
    b"AMQP\0\0\x09\x01",
    marshalled(commands.Channel.Open()),
    marshalled(Basic.Publish(exchange="x", routing_key="k")),
    marshalled(Basic.Ack(delivery_tag=1)),
    b"\x08\0\0\0\0\0\0\xce",
]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 8, 100, 10_000])
@pytest.mark.parametrize(
    ("measure", "messages"),
    [(wire_protocols.size_for_postgres, POSTGRES), (wire_protocols.size_of_amqp, AMQP)],
)
def test_messages_are_split_in_any_chunks(measure, messages, step):
    splitter = wire_protocols.Splitter(measure)
    stream = b"".join(messages)

    pieces = [stream[start : start + step] for start in range(0, len(stream), step)]

    assert [found for piece in pieces for found in splitter.feed(piece)] == messages


@pytest.mark.parametrize(
    ("matcher", "found"),
    [
        (wire_protocols.BEGIN, POSTGRES[2]),
        (wire_protocols.COMMIT, COMMIT),
        (wire_protocols.statement("INSERT INTO effects"), INSERT),
        (wire_protocols.PUBLISH, AMQP[2]),
        (wire_protocols.ACK, AMQP[3]),
    ],
)
def test_a_matcher_recognises_its_message_among_all_others(matcher, found):
    assert [message for message in (*POSTGRES, *AMQP) if matcher(message)] == [found]


def test_a_prepared_statement_is_recognised_each_time_it_is_executed_and_not_before():
    matcher, statements = (
        wire_protocols.statement("INSERT INTO effects"),
        wire_protocols.Statements(),
    )
    prepare = typed(b"P", b"name\0INSERT INTO effects VALUES ($1)\0\0")
    execute, other = typed(b"B", b"\0name\0\0\0\0"), typed(b"B", b"\0other\0\0\0\0")

    said = [statements.resolved(message) for message in (prepare, execute, other, execute)]

    assert [matcher(message) for message in said] == [False, True, False, True]


def test_the_parameters_of_a_statement_do_not_match():
    assert not wire_protocols.COMMIT(
        wire_protocols.Statements().resolved(typed(b"B", b"\0name\0\0COMMIT"))
    )


class Recorded(Link):
    """A connection that records the forwarded data."""

    def __init__(self) -> None:
        super().__init__({}, {})
        object.__setattr__(self, "received", [])

    def deliver(self, side: Side, data: bytes) -> None:
        self.received.append((side, data))


def through(
    breakpoint_: Breakpoint, link: Link, *messages: bytes, side: Side = Side.CLIENT
) -> list[bytes]:
    return [message for message in messages if breakpoint_.passes(link, side, message, message)]


def test_a_breakpoint_holds_back_the_matched_message_and_its_successors_on_one_connection():
    breakpoint_ = Breakpoint((wire_protocols.COMMIT,), side=Side.CLIENT, held=Side.CLIENT)
    one, other = Recorded(), Recorded()

    assert through(breakpoint_, one, INSERT, COMMIT, INSERT) == [INSERT]
    assert through(breakpoint_, one, b"answer", side=Side.SERVER) == [b"answer"]
    assert through(breakpoint_, other, COMMIT) == [COMMIT]

    breakpoint_.release()
    assert one.received == [(Side.SERVER, COMMIT), (Side.SERVER, INSERT)]
    assert through(breakpoint_, one, COMMIT) == [COMMIT]


def test_a_breakpoint_on_the_reply_passes_the_matched_message():
    breakpoint_ = Breakpoint((wire_protocols.COMMIT,), side=Side.CLIENT, held=Side.SERVER)
    link = Recorded()

    assert through(breakpoint_, link, b"before", side=Side.SERVER) == [b"before"]
    assert through(breakpoint_, link, COMMIT) == [COMMIT]
    assert through(breakpoint_, link, b"done", side=Side.SERVER) == []


def test_matchers_have_to_match_in_order_on_one_connection():
    matchers = (wire_protocols.statement("INSERT INTO effects"), wire_protocols.COMMIT)
    breakpoint_ = Breakpoint(matchers, side=Side.CLIENT, held=Side.CLIENT)
    one, other = Recorded(), Recorded()

    assert through(breakpoint_, one, COMMIT, INSERT) == [COMMIT, INSERT]
    assert through(breakpoint_, other, COMMIT) == [COMMIT]
    assert through(breakpoint_, one, COMMIT) == []
