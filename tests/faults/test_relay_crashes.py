"""
A relay that dies, stops or is cut off at each point of its protocol.

    R1  BEGIN, claim with row locks
    R5  publish, persistent and mandatory, and wait for the confirms
    R7  settle: delete what is confirmed
    R8  COMMIT

| crash                                   | test                                                  |
|-----------------------------------------|-------------------------------------------------------|
| R0, the producer                        | `test_producer_crashes`                               |
| R1 to R4, with rows claimed             | `test_a_relay_killed_before_…[claimed]`               |
| R5, before the broker has the message   | `test_a_relay_killed_before_…[not_published]`         |
| R5, the broker has it, confirm lost     | `test_a_relay_killed_after_…[not_confirmed]`          |
| R5, likewise, the connection is lost    | `test_a_relay_that_loses_the_confirm_…`               |
| R6, R7                                  | `test_a_relay_killed_after_…[not_deleted]`            |
| R8, COMMIT not heard by the database    | `test_a_relay_killed_after_…[not_committed]`          |
| R8, outcome of the COMMIT unknown       | `test_a_relay_that_does_not_know_…`                   |
| after R8                                | `test_a_relay_killed_once_its_settlement_…`           |
| the session ends while it publishes     | `test_a_session_that_is_ended_while_…`                |
| Postgres or the broker crashes          | `test_server_crashes`                                 |
| paused past all deadlines, then resumed | `test_a_relay_that_was_stopped_past_all_deadlines_…`  |
| two relays                              | that one, and `tests/integration/test_relay.py`       |
"""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import sqlalchemy as sa

import outbox
from outbox.tables import outbox as table
from tests.integration.test_relay import a_queue, commit, messages_in
from tests.support.breakpoints import Breakpoint, BreakpointProxy
from tests.support.builders import an_event
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.wire_protocols import ACK, COMMIT, PUBLISH, statement

pytestmark = pytest.mark.fault

CLAIM = statement("SKIP LOCKED")
SETTLEMENT = statement("DELETE FROM outbox WHERE")
IDLE_SESSIONS = (
    "FROM pg_stat_activity WHERE state = 'idle in transaction'"
    " AND datname = current_database() AND application_name LIKE 'relay%'"
)


@dataclass(frozen=True, slots=True)
class ProxiedRelays:
    """Relays that reach both servers through proxies, and a queue that takes their events."""

    deployment: Deployment
    database: BreakpointProxy
    broker: BreakpointProxy
    rabbitmq_url: str

    async def commits(self, count: int = 3) -> list[outbox.Event]:
        events = [an_event() for _ in range(count)]
        await commit(self.deployment, *events)
        return events

    async def is_drained(self) -> None:
        await eventually(self.deployment.is_drained, within=20)
        assert await self.deployment.dead() == []

    async def copies(self) -> Counter[str | None]:
        """How often each event is in the queue; they are gone then."""
        return Counter(message.message_id for message in await messages_in(self.rabbitmq_url))

    async def attempts(self) -> set[int]:
        return {row["attempts"] for row in await self.deployment.rows(table)}

    def trap(self, name: str) -> Breakpoint:
        """A trap at a point of the protocol."""
        match name:
            case "claimed":
                return self.database.after(CLAIM)
            case "not_published":
                return self.broker.before(PUBLISH)
            case "not_confirmed":
                return self.broker.before_reply(ACK)
            case "not_deleted":
                return self.database.before(SETTLEMENT)
            case "not_committed":
                return self.database.before(SETTLEMENT, COMMIT)
            case "committed":
                return self.database.after(SETTLEMENT, COMMIT)
            case _:
                raise ValueError(name)


@pytest.fixture
async def relays(postgres_url, rabbitmq_url, tmp_path) -> AsyncIterator[ProxiedRelays]:
    await a_queue(rabbitmq_url)
    async with (
        BreakpointProxy(postgres_url) as database,
        BreakpointProxy(rabbitmq_url) as broker,
        Deployment(
            postgres_url,
            broker.url,
            tmp_path,
            MQ_DATABASE_URL=database.url,
            MQ_PUBLISH_TIMEOUT_SECONDS="2",
            MQ_POLL_MAX_SECONDS="0.1",
        ) as deployment,
    ):
        yield ProxiedRelays(deployment, database, broker, rabbitmq_url)


def each(events: list[outbox.Event], times: int) -> Counter[str | None]:
    return Counter({str(event.id): times for event in events})


async def replaced_at(relays: ProxiedRelays, point: str) -> list[outbox.Event]:
    """Kill a relay at *point* and start another one, which publishes the events."""
    trap = relays.trap(point)
    events = await relays.commits()
    doomed = await relays.deployment.relay()
    await trap.wait_until_hit()

    doomed.kill()
    assert await relays.attempts() == {0}
    await relays.deployment.relay()

    await relays.is_drained()
    return events


@pytest.mark.parametrize("point", ["claimed", "not_published"])
async def test_a_relay_killed_before_the_broker_has_heard_of_an_event_leaves_it_to_another(
    relays, point
):
    events = await replaced_at(relays, point)

    assert await relays.copies() == each(events, 1)


@pytest.mark.parametrize("point", ["not_confirmed", "not_deleted", "not_committed"])
async def test_a_relay_killed_after_the_broker_has_its_events_costs_one_more_copy_of_each(
    relays, point
):
    events = await replaced_at(relays, point)

    assert await relays.copies() == each(events, 2)


async def test_a_relay_killed_once_its_settlement_is_committed_costs_nothing(relays):
    trap = relays.trap("committed")
    events = await relays.commits()
    doomed = await relays.deployment.relay()
    await trap.wait_until_hit()

    doomed.kill()
    await relays.deployment.relay()

    assert await relays.deployment.is_drained()
    further = await relays.commits(1)
    await relays.is_drained()
    assert await relays.copies() == each(events + further, 1)


@pytest.mark.parametrize(("point", "times"), [("not_committed", 2), ("committed", 1)])
async def test_a_relay_that_does_not_know_whether_its_settlement_is_committed_goes_by_the_rows(
    relays, point, times
):
    trap = relays.trap(point)
    events = await relays.commits()
    relay = await relays.deployment.relay()
    await trap.wait_until_hit()

    trap.cut()

    await relays.is_drained()
    assert await relays.copies() == each(events, times)
    await relay.wait_for_line("server_unavailable")
    await relay.wait_for_line("server_available")
    assert await relay.terminate() == 0


async def test_a_relay_that_loses_the_confirm_publishes_again_and_counts_no_attempt(relays):
    trap = relays.trap("not_confirmed")
    events = await relays.commits()
    relay = await relays.deployment.relay()
    await trap.wait_until_hit()

    again = relays.trap("not_published")
    trap.cut()
    await again.wait_until_hit()
    assert await relays.attempts() == {0}
    again.release()

    await relays.is_drained()
    assert await relays.copies() == each(events, 2)
    assert await relay.terminate() == 0


async def test_a_session_that_is_ended_while_its_relay_publishes_costs_one_more_copy_of_each(
    relays,
):
    trap = relays.trap("not_confirmed")
    events = await relays.commits()
    relay = await relays.deployment.relay()
    await trap.wait_until_hit()

    async with relays.deployment.engine.connect() as connection:
        # A transaction sees the sessions as they were when it first looked.
        await connection.execution_options(isolation_level="AUTOCOMMIT")

        async def only_the_claim_is_open() -> bool:
            return await connection.scalar(sa.text(f"SELECT count(*) {IDLE_SESSIONS}")) == 1

        # A relay that has just started also counts what is in the database.
        await eventually(only_the_claim_is_open)
        ended = await connection.scalars(
            sa.text(f"SELECT pg_terminate_backend(pid) {IDLE_SESSIONS}")
        )
        assert list(ended) == [True]
    trap.release()

    await relays.is_drained()
    assert await relays.copies() == each(events, 2)
    assert await relay.terminate() == 0


async def test_a_relay_that_was_stopped_past_all_deadlines_finds_that_another_has_taken_over(
    relays,
):
    trap = relays.trap("not_confirmed")
    events = await relays.commits()
    stopped = await relays.deployment.relay()
    await trap.wait_until_hit()
    stopped.freeze()
    other = await relays.deployment.relay()

    # Once the server has ended the transaction of the one that does not answer.
    await relays.is_drained()
    trap.release()
    stopped.thaw()
    await stopped.wait_for_line("server_unavailable")

    assert await relays.copies() == each(events, 2)
    assert await other.terminate() == 0
    further = await relays.commits()
    await relays.is_drained()
    assert await relays.copies() == each(further, 1)
    assert await stopped.terminate() == 0
