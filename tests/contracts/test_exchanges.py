"""
Every kind of exchange, in each broker: what a publish finds, and what management tells of it.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from outbox.errors import TopologyMismatch
from outbox.transports.base import Outcome, Transport
from outbox.transports.management import Management
from outbox.transports.rabbitmq.management import RabbitMQManagement
from outbox.transports.rabbitmq.transport import RabbitMQTransport
from outbox.transports.routes import RouteState
from outbox.transports.sqlite.management import SqliteManagement
from outbox.transports.sqlite.transport import SqliteTransport
from outbox.transports.topology import Binding, Exchange, ExchangeBinding, Queue, Topology
from outbox.wire.codec import WireMessage

SOON = timedelta(seconds=10)
NAMES = ["first", "second"]
QUEUES = [Queue(name, {"x-queue-type": "quorum"}) for name in NAMES]


@pytest.fixture(params=["rabbitmq", "sqlite"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Transport, Management]:
    if request.param == "sqlite":
        return SqliteTransport(tmp_path / "broker.db"), SqliteManagement(tmp_path / "broker.db")
    server = request.getfixturevalue("rabbitmq_server")
    vhost = request.getfixturevalue("rabbitmq_vhost")
    url = URL(request.getfixturevalue("rabbitmq_url"))
    return (
        RabbitMQTransport([url], heartbeat_seconds=5, name="test"),
        RabbitMQManagement(URL(server.management_url), vhost=vhost),
    )


async def reached(
    transport: Transport, exchange: str, key: str = "k", **headers: Any
) -> list[str]:
    """The queues that get a message. It is acked if there is one, and else returned."""
    message = WireMessage(exchange, key, b"{}", "an-id", "a.b", headers=headers)
    after = [WireMessage("", name, b"{}", f"after-{name}", "a.b") for name in NAMES]
    async with transport.publisher() as publisher:
        await publisher.ready()
        [outcome] = await publisher.publish([message], within=SOON)
        await publisher.publish(after, within=SOON)
    found = [name for name in NAMES if await has_two(transport, name)]
    assert outcome is (Outcome.ACKED if found else Outcome.RETURNED)
    return found


async def has_two(transport: Transport, queue: str) -> bool:
    """Whether *queue* has a message before the last one; takes both."""
    taken = []
    async with transport.subscribe(queue, prefetch=2) as subscription:
        while not taken or taken[-1] != f"after-{queue}":
            [delivery] = await subscription.take(1)
            taken.append(delivery.message.message_id)
            await subscription.ack(delivery)
    return len(taken) == 2


def a_topology(
    *exchanges: Exchange,
    bindings: Sequence[Binding] = (),
    between: Sequence[ExchangeBinding] = (),
) -> Topology:
    return Topology(exchanges, QUEUES, bindings, between)


async def test_a_topic_exchange_compares_the_words_of_the_routing_key(broker):
    transport, _ = broker
    bindings = [Binding("t", "first", "a.*"), Binding("t", "second", "#.z")]
    await transport.declare(a_topology(Exchange("t", "topic"), bindings=bindings))

    assert await reached(transport, "t", "a.z") == ["first", "second"]
    assert await reached(transport, "t", "b.c") == []


async def test_a_direct_exchange_compares_the_whole_routing_key(broker):
    transport, _ = broker
    bindings = [Binding("d", "first", "a.b"), Binding("d", "second", "a.*")]
    await transport.declare(a_topology(Exchange("d", "direct"), bindings=bindings))

    assert await reached(transport, "d", "a.b") == ["first"]
    assert await reached(transport, "d", "a.c") == []


async def test_a_fanout_exchange_passes_every_message_on(broker):
    transport, _ = broker
    await transport.declare(a_topology(Exchange("f", "fanout")))
    assert await reached(transport, "f") == []

    bindings = [Binding("f", "first", "#"), Binding("f", "second", "other")]
    await transport.declare(a_topology(Exchange("f", "fanout"), bindings=bindings))

    assert await reached(transport, "f", "any.key") == ["first", "second"]


async def test_a_headers_exchange_compares_all_headers_or_any(broker):
    transport, _ = broker
    wanted = {"unit": "mg", "size": 7}
    bindings = [
        Binding("h", "first", "", wanted, "all"),
        Binding("h", "second", "", wanted, "any"),
    ]
    await transport.declare(a_topology(Exchange("h", "headers"), bindings=bindings))

    assert await reached(transport, "h", unit="mg", size=7, more="x") == ["first", "second"]
    assert await reached(transport, "h", unit="mg") == ["second"]
    assert await reached(transport, "h", unit="g", size=8) == []
    assert await reached(transport, "h") == []


async def test_a_header_of_another_type_is_another_value(broker):
    transport, _ = broker
    flag, large = Binding("h", "first", "", {"flag": True}), {"large": 2**40}
    bindings = [flag, Binding("h", "second", "", large)]
    await transport.declare(a_topology(Exchange("h", "headers"), bindings=bindings))

    assert await reached(transport, "h", flag=True) == ["first"]
    assert await reached(transport, "h", flag="true") == []
    assert await reached(transport, "h", flag=1) == []
    assert await reached(transport, "h", large=2**40) == ["second"]
    assert await reached(transport, "h", large=str(2**40)) == []


async def test_a_binding_asks_for_any_value_of_a_header_or_for_no_header(broker):
    transport, _ = broker
    bindings = [Binding("h", "first", "", {"unit": None}), Binding("h", "second", "#")]
    await transport.declare(a_topology(Exchange("h", "headers"), bindings=bindings))

    assert await reached(transport, "h", unit="mg") == ["first", "second"]
    assert await reached(transport, "h", other="mg") == ["second"]


async def test_exchanges_pass_messages_on_to_each_other_also_in_a_circle(broker):
    transport, management = broker
    milligrams, grams = {"unit": "mg"}, {"unit": "g"}
    between = [ExchangeBinding("t", "h", "a.#"), ExchangeBinding("h", "t", "", milligrams)]
    bindings = [Binding("h", "first", "", milligrams), Binding("h", "second", "", grams)]
    wanted = a_topology(
        Exchange("t", "topic"), Exchange("h", "headers"), bindings=bindings, between=between
    )
    await transport.declare(wanted)

    assert await management.missing_bindings(wanted) == []
    assert await reached(transport, "t", "a.b", unit="mg") == ["first"]
    assert await reached(transport, "t", "a.b", unit="g") == ["second"]
    assert await reached(transport, "t", "b.a", unit="mg") == []


async def test_an_alternate_exchange_gets_the_messages_that_no_binding_takes(broker):
    transport, management = broker
    bindings = [Binding("t", "first", "a.#"), Binding("spare", "second", "#.z")]
    await transport.declare(
        a_topology(Exchange("t", "topic", "spare"), Exchange("spare", "topic"), bindings=bindings)
    )

    assert await reached(transport, "t", "a.z") == ["first"]
    assert await reached(transport, "t", "b.z") == ["second"]
    assert await reached(transport, "t", "b.y") == []
    assert await management.routes("t", ["a.z", "b.z", "b.y"]) == {
        "a.z": RouteState.BOUND,
        "b.z": RouteState.BOUND,
        "b.y": RouteState.NO_QUEUE,
    }


async def test_the_default_exchange_routes_to_the_queue_of_that_name(broker):
    transport, management = broker
    await transport.declare(a_topology())

    assert await reached(transport, "", "second") == ["second"]
    assert await reached(transport, "", "third") == []
    assert await management.routes("", ["second", "third"]) == {
        "second": RouteState.BOUND,
        "third": RouteState.NO_QUEUE,
    }


async def test_a_routing_key_tells_not_whether_a_headers_exchange_takes_a_message(broker):
    transport, management = broker
    bindings = [Binding("h", "first", "", {"unit": "mg"})]
    exchanges = [Exchange("h", "headers"), Exchange("empty", "headers")]
    await transport.declare(a_topology(*exchanges, bindings=bindings))

    assert await management.routes("h", ["k"]) == {"k": RouteState.UNKNOWN}
    assert await management.routes("empty", ["k"]) == {"k": RouteState.NO_QUEUE}


async def test_bindings_that_are_missing_and_unwanted_are_listed(broker):
    transport, management = broker
    exchanges = [Exchange("h", "headers"), Exchange("f", "fanout")]
    old = Binding("h", "first", "", {"unit": "mg"}, "any")
    await transport.declare(a_topology(*exchanges, bindings=[old]))

    new = Binding("h", "first", "", {"unit": "mg"})
    between = ExchangeBinding("h", "f", "", {"unit": "mg"})
    wanted = a_topology(*exchanges, bindings=[new], between=[between])

    assert await management.missing_bindings(wanted) == [new, between]
    assert await management.unwanted_bindings(wanted) == [old]
    await transport.declare(wanted)
    assert await management.missing_bindings(wanted) == []
    await transport.remove(Topology(bindings=[old, new], exchange_bindings=[between]))
    assert await management.missing_bindings(wanted) == [new, between]
    assert await management.unwanted_bindings(wanted) == []


@pytest.mark.parametrize(
    ("other", "argument"),
    [
        (Exchange("e", "topic", "spare"), "type"),
        (Exchange("e", "fanout", "other"), "alternate-exchange"),
        (Exchange("e", "fanout"), "alternate-exchange"),
    ],
)
async def test_an_exchange_that_exists_is_not_changed(broker, other, argument):
    transport, _ = broker
    await transport.declare(a_topology(Exchange("e", "fanout", "spare")))

    for act in (transport.declare, transport.verify):
        with pytest.raises(TopologyMismatch, match=f"exchange e exists with another {argument}"):
            await act(Topology([other]))
    await transport.verify(Topology([Exchange("e", "fanout", "spare")]))


async def test_a_binding_to_an_exchange_that_does_not_exist_names_it(broker):
    transport, _ = broker
    with pytest.raises(TopologyMismatch, match="exchange nowhere does not exist"):
        await transport.declare(a_topology(bindings=[Binding("nowhere", "first", "#")]))


async def test_an_older_file_of_the_embedded_broker_gets_the_tables(tmp_path):
    path = tmp_path / "broker.db"
    await SqliteTransport(path).declare(a_topology(Exchange("t", "topic")))
    with closing(sqlite3.connect(path)) as db:
        db.executescript("DROP TABLE further_bindings; DROP TABLE alternate_exchanges")
        db.execute("INSERT INTO bindings VALUES ('t', 'first', 'a')")
        db.commit()

    transport = SqliteTransport(path)
    bindings = [Binding("h", "second", "", {"unit": "mg"})]
    between = [ExchangeBinding("t", "h", "#")]
    await transport.declare(
        a_topology(Exchange("h", "headers"), bindings=bindings, between=between)
    )

    assert await reached(transport, "t", "a", unit="mg") == ["first", "second"]
