"""
Bindings that an earlier deployment has left, on real brokers.
"""

import pytest
import structlog

from outbox.runtime.topology_report import check
from outbox.transports.topology import Binding, Exchange, Topology
from tests.contracts.test_topology_monitor import TOPOLOGY, Monitored, broker, embedded, rabbit

__all__ = ["broker", "embedded", "rabbit"]

OLD = Topology(
    [Exchange("former", "topic")],
    bindings=[
        Binding("events", "work", "removed.#"),
        Binding("former", "work", "a.#"),
        Binding("former", "work.dead", "work"),
    ],
)
TEXTS = [
    "queue work is bound to exchange events by removed.#",
    "queue work is bound to exchange former by a.#",
    "queue work.dead is bound to exchange former by work",
]


@pytest.fixture
async def left(broker):
    await broker.transport.declare(OLD)
    return broker


async def test_a_binding_that_no_declaration_has_is_reported_and_counted(left):
    monitored = Monitored(left.transport, left.management)

    lines = await monitored.lines()

    assert [line["problem"].partition(", which")[0] for line in lines] == TEXTS
    assert {(line["log_level"], line["kind"]) for line in lines} == {("warning", "unwanted")}
    assert monitored.count("unwanted") == 3
    assert monitored.is_ready
    assert await monitored.lines() == []


async def test_a_check_warns_of_it_and_says_what_to_do(left):
    found = await check(left.management, TOPOLOGY)

    assert [text.partition(", which")[0] for text in found] == TEXTS
    assert all("unbind it" in text for text in found)


async def test_a_binding_that_was_removed_is_no_problem_any_more(left):
    monitored = Monitored(left.transport, left.management)
    await monitored.lines()
    await left.delete_exchange("former")
    await left.unbind("removed.#")

    with structlog.testing.capture_logs() as lines:
        await monitored.monitor.inspect()

    assert [line["event"] for line in lines if line["log_level"] == "info"] == [
        "topology_problem_solved"
    ] * 3
    assert monitored.count("unwanted") == 0


async def test_the_default_exchange_is_bound_to_every_queue_and_no_problem(broker):
    assert await broker.management.unwanted_bindings(TOPOLOGY) == []
