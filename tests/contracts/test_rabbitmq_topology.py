"""
Which arguments of RabbitMQ's queues a user can compare.
"""

from datetime import timedelta
from typing import Any

import aio_pika
import pytest
import structlog
from yarl import URL

from consumer.partitions import hash_type
from consumer.partitions.hash_type import check_hash_type
from consumer.queues import ConsumerQueues
from outbox.errors import TopologyMismatch
from outbox.runtime import process
from outbox.settings import SharedSettings
from outbox.transports.rabbitmq import topology
from outbox.transports.rabbitmq.transport import RabbitMQTransport
from outbox.transports.sqlite.transport import SqliteTransport
from outbox.transports.topology import Exchange, Queue, Topology
from outbox.wire.codec import WireMessage
from tests.support.eventually import eventually

WORK = ConsumerQueues("work", bindings=["#"], delays=[timedelta(seconds=1)])
WANTED = WORK.topology(main_exchange="events", dlx_exchange="dead-letters")


def transport(url: str) -> RabbitMQTransport:
    return RabbitMQTransport([URL(url)], heartbeat_seconds=5, name="test")


async def test_a_user_without_configure_permission_verifies_existence_only(
    rabbitmq_url, rabbitmq_reader_url
):
    await transport(rabbitmq_url).declare(WANTED)

    assert await transport(rabbitmq_reader_url).verify(WANTED) == [
        "exchange events",
        "exchange dead-letters",
        "queue work.dead",
        "queue work.retry.1s",
        "queue work",
    ]
    with pytest.raises(TopologyMismatch, match=r"^queue nothing does not exist$"):
        await transport(rabbitmq_reader_url).verify(Topology(queues=[Queue("nothing")]))


async def test_a_check_opens_one_channel_and_one_more_after_each_refusal(
    rabbitmq_url, monkeypatch
):
    await transport(rabbitmq_url).declare(WANTED)
    opened = 0
    real = aio_pika.Connection.channel

    def channel(connection: aio_pika.Connection, **options: Any) -> Any:
        nonlocal opened
        opened += 1
        return real(connection, **options)

    monkeypatch.setattr(aio_pika.Connection, "channel", channel)

    await transport(rabbitmq_url).verify(WANTED)
    assert opened == 1

    missing = Topology(queues=[Queue("nothing"), Queue("nowhere"), *WANTED.queues])
    with pytest.raises(TopologyMismatch, match=r"^queue nothing .*\nqueue nowhere "):
        await transport(rabbitmq_url).verify(missing)
    assert opened == 1 + 3


async def test_a_process_that_cannot_compare_warns_and_continues(
    rabbitmq_url, rabbitmq_reader_url
):
    await transport(rabbitmq_url).declare(WANTED)
    settings = SharedSettings(_env_file=None, declare_topology=False)

    with structlog.testing.capture_logs() as lines:
        await process.prepare(transport(rabbitmq_reader_url), WANTED, settings)

    said = [line["of"] for line in lines if line["event"] == "arguments_not_compared"]
    assert said[-1] == "queue work"
    assert len(said) == 5


async def test_a_queue_of_another_type_is_named_with_that(rabbitmq_url):
    await transport(rabbitmq_url).declare(Topology(queues=[Queue("q")]))

    with pytest.raises(TopologyMismatch, match=r"^queue q exists with another x-queue-type$"):
        await transport(rabbitmq_url).declare(
            Topology(queues=[Queue("q", {"x-queue-type": "quorum"})])
        )


async def test_all_entities_that_differ_are_named_at_once(rabbitmq_url):
    """Also the queues that an older version declared, and a missing one."""
    older = Queue("work.dead", {"x-queue-type": "quorum", "x-delivery-limit": 2**31 - 1})
    other = Queue("work", {"x-queue-type": "quorum", "x-delivery-limit": 7})
    await transport(rabbitmq_url).declare(Topology(queues=[older, other]))

    for act in (transport(rabbitmq_url).verify, transport(rabbitmq_url).declare):
        with pytest.raises(TopologyMismatch) as mismatch:
            await act(WANTED)

        lines = str(mismatch.value).splitlines()
        assert any(line.startswith("queue work.dead exists with another x-") for line in lines)
        assert any(line.startswith("queue work exists with another x-") for line in lines)
        is_listed = "queue work.retry.1s does not exist" in lines
        assert is_listed == (act.__name__ == "verify")


async def test_an_embedded_broker_gives_queues_of_an_older_version_the_new_arguments(tmp_path):
    broker = SqliteTransport(tmp_path / "broker.db")
    older = Queue("work.dead", {"x-queue-type": "quorum", "x-delivery-limit": 2**31 - 1})
    await broker.declare(Topology(queues=[older]))
    with pytest.raises(TopologyMismatch, match=r"^queue work\.dead exists with another"):
        await broker.verify(Topology(queues=[WANTED.queues[0]]))

    await broker.declare(WANTED)

    assert await broker.verify(WANTED) == []


async def test_an_argument_that_the_broker_refuses_is_named(rabbitmq_url):
    odd = Queue("odd", {"x-queue-type": "classic", "x-delivery-limit": 3})

    with pytest.raises(TopologyMismatch, match=r"^queue odd: .* refuses x-delivery-limit$"):
        await transport(rabbitmq_url).declare(Topology(queues=[odd]))


async def test_arguments_set_by_a_policy_are_not_compared(
    rabbitmq_server, rabbitmq_vhost, rabbitmq_url
):
    """If this fails, RabbitMQ shows policies now: update docs/how-to/run.md."""
    await transport(rabbitmq_url).declare(WANTED)
    policy = {"pattern": ".*", "definition": {"message-ttl": 5}, "apply-to": "queues"}
    await rabbitmq_server.http.request("PUT", "policies", rabbitmq_vhost, "other", body=policy)

    assert await transport(rabbitmq_url).verify(WANTED) == []


async def test_an_exchange_of_an_unknown_type_is_refused_by_name(rabbitmq_url):
    unknown: Any = Exchange("spread", "x-unknown")  # type: ignore[arg-type]
    with pytest.raises(
        TopologyMismatch,
        match=r"^exchange spread: the broker does not know its type x-unknown$",
    ):
        await transport(rabbitmq_url).declare(Topology([unknown]))
    with pytest.raises(TopologyMismatch, match="exchange spread does not exist"):
        await transport(rabbitmq_url).verify(Topology([unknown]))


async def test_a_missing_plugin_is_named(rabbitmq_url, monkeypatch):
    """The tests' own broker has it, so its name is given to a type that no broker knows."""
    monkeypatch.setitem(topology.PLUGINS, "x-unknown", "rabbitmq_unknown")
    unknown: Any = Exchange("spread", "x-unknown")  # type: ignore[arg-type]
    with pytest.raises(TopologyMismatch, match=r"run rabbitmq-plugins enable rabbitmq_unknown on"):
        await transport(rabbitmq_url).declare(Topology([unknown]))


async def test_what_is_removed_is_gone_and_a_queue_with_messages_stays(rabbitmq_url):
    broker = transport(rabbitmq_url)
    await broker.declare(WANTED)
    async with broker.publisher() as publisher:
        await publisher.publish([WireMessage("", "work", b"")], within=timedelta(seconds=5))

    async def is_counted() -> bool:
        depth = await broker.depth("work")
        return depth is not None and depth.messages == 1

    await eventually(is_counted)
    removed = Topology(WANTED.exchanges, WANTED.queues, WANTED.bindings)

    assert await broker.remove(removed) == ["work"]
    assert await broker.remove(removed) == ["work"]
    assert await broker.depth("work.dead") is None
    with pytest.raises(TopologyMismatch, match="exchange events does not exist"):
        await broker.verify(Topology(WANTED.exchanges))


async def test_the_hash_type_is_looked_for_without_an_effect(rabbitmq_url, monkeypatch):
    await check_hash_type(transport(rabbitmq_url))

    monkeypatch.setattr(hash_type, "HASH_TYPE", "x-unknown")
    probe: Any = Exchange("amq.topic", "x-unknown")  # type: ignore[arg-type]
    monkeypatch.setattr(hash_type, "_PROBE", Topology([probe]))
    with pytest.raises(TopologyMismatch, match="does not know its type x-unknown"):
        await check_hash_type(transport(rabbitmq_url))
