"""
Messages whose handlers ask for something, fail, hang or die.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest
import sqlalchemy as sa

from consumer.storage.tables import processed_messages
from outbox.wire.codec import WireMessage
from outbox.wire.headers import IDEMPOTENCY_KEY_HEADER
from tests.support.behaviours import BATCH_SIZE, ERRORS, LEASE, RATE
from tests.support.consumer_deployment import ConsumerDeployment, a_message, once
from tests.support.effects import effects
from tests.support.eventually import eventually
from tests.support.processes import ChildProcess

BOTH = pytest.mark.parametrize(
    "urls",
    [("postgres_url", "rabbitmq_url"), ("sqlite_url", "embedded_broker_url")],
    ids=["servers", "embedded"],
    indirect=True,
)


@pytest.fixture
def urls(request: pytest.FixtureRequest) -> tuple[str, str]:
    database, broker_ = getattr(request, "param", ("postgres_url", "rabbitmq_url"))
    return request.getfixturevalue(database), request.getfixturevalue(broker_)


@pytest.fixture
async def place(urls, tmp_path):
    async with ConsumerDeployment(urls, tmp_path) as place:
        yield place


async def with_a_backlog(
    place: ConsumerDeployment, messages: Sequence[WireMessage]
) -> ChildProcess:
    """Start a consumer that finds *messages* waiting."""
    assert await (await place.consumer()).terminate() == 0
    await place.publish_all(messages)
    return await place.consumer()


async def transactions(place: ConsumerDeployment) -> int:
    """How many transactions have written effects; Postgres only."""
    async with place.engine.connect() as connection:
        statement = sa.text("SELECT count(DISTINCT xmin::text) FROM effects")
        return int(await connection.scalar(statement) or 0)


async def test_a_backlog_is_applied_in_batches_of_one_transaction(place):
    messages = [a_message("test.in.batches") for _ in range(10 * BATCH_SIZE)]

    await with_a_backlog(place, messages)
    await place.applies(len(messages))

    assert await place.attempts() == once(*messages)
    assert await transactions(place) <= 20
    await place.has_nothing_waiting()


@BOTH
async def test_a_message_that_fails_in_a_batch_is_counted_alone_and_its_neighbours_applied_once(
    place,
):
    single = [a_message("test.in.batches") for _ in range(2 * BATCH_SIZE)]
    listed = [a_message("test.as.list") for _ in range(2 * BATCH_SIZE)]
    poison = [a_message(name, fails=True) for name in ("test.in.batches", "test.as.list")]

    await with_a_backlog(place, [*single[:5], *listed[:5], *poison, *single[5:], *listed[5:]])

    dead = await place.buried(2)
    await place.applies(len(single) + len(listed))
    assert await place.attempts() == once(*single, *listed)
    assert {row["attempts"] for row in dead.values()} == {4}
    assert dead.keys() == {message.message_id for message in poison}
    assert '"batch_failed"' in place.logs()
    await place.has_nothing_waiting()


async def test_duplicates_within_a_batch_and_across_batches_are_applied_once(place):
    single = [a_message("test.in.batches") for _ in range(BATCH_SIZE)]
    listed = [a_message("test.as.list") for _ in range(BATCH_SIZE)]
    assert await (await place.consumer()).terminate() == 0

    await place.publish(*(each for each in single + listed for _ in range(2)))
    await place.publish(*single, *listed)
    await place.consumer()
    await place.applies(len(single) + len(listed))
    await place.has_nothing_waiting()

    assert await place.attempts() == once(*single, *listed)
    rows = await place.rows(effects)
    assert {row["consumer"] for row in rows} - {"effects", "list of 1"}, "there was no batch"


@BOTH
async def test_a_handler_sets_the_delay_of_a_retry_or_rejects_its_message(place):
    """The one retry queue waits for 0.2 seconds."""
    soon, late = (a_message("test.wants.to.wait", seconds=wait) for wait in (0.01, 1.0))
    rejected = a_message("test.is.rejected")
    await place.consumer()
    clock = asyncio.get_running_loop().time

    await place.publish(soon)
    await place.applies(1)
    began = clock()
    await place.publish(late, rejected)
    await place.applies(2)

    assert clock() - began > 0.9
    assert await place.attempts() == once(soon, late, attempt=2)
    dead = (await place.buried(1))[rejected.message_id]
    assert (dead["reason"], dead["attempts"]) == ("unknown_device", 1)


@BOTH
async def test_every_error_of_a_handler_counts_as_an_attempt_and_its_process_lives(place):
    consumer = await place.consumer()
    messages = [a_message("test.raises.once", raises=name) for name in ERRORS]
    messages += [a_message("test.is.filtered", raises=name, wanted=True) for name in ERRORS]
    messages += [a_message("test.hangs.once")]
    leased = [a_message("test.leased.repeat", raises=name) for name in ERRORS]

    await place.publish(*messages, *leased)
    await place.applies(len(messages))
    await eventually(lambda: len(place.calls()) == 2 * len(leased))

    assert await place.attempts() == once(*messages, attempt=2)
    assert Counter((id_, int(attempt)) for id_, _, attempt in place.calls()) == (
        once(*leased) + once(*leased, attempt=2)
    )
    await place.has_nothing_waiting()
    assert await place.dead() == []
    assert await consumer.terminate() == 0


async def test_a_message_that_a_filter_drops_is_acked_and_leaves_no_trace(place):
    await place.consumer()
    broken = a_message("test.is.filtered")
    wanted = a_message("test.is.filtered", wanted=True)

    await place.publish(a_message("test.is.filtered", wanted=False), broken, wanted)
    dead = await place.buried(1)
    await place.applies(1)

    await place.has_nothing_waiting()
    assert await place.attempts() == once(wanted)
    assert dead[broken.message_id]["reason"] == "retries_exhausted"
    statuses = Counter(row["status"] for row in await place.rows(processed_messages))
    assert statuses == {"completed": 1, "failed": 1}


async def test_a_handler_that_blocks_the_loop_beyond_all_heartbeats_is_applied_once(
    urls, tmp_path
):
    async with ConsumerDeployment(urls, tmp_path, MQ_HEARTBEAT_SECONDS="1") as place:
        consumer = await place.consumer()
        blocking, after = (
            a_message("test.blocks.the.loop", seconds=3.5),
            a_message("test.happened"),
        )

        await place.publish(blocking)
        await place.publish(after)
        await place.applies(2)

        await place.has_nothing_waiting()
        assert await place.attempts() == once(blocking, after)
        assert await consumer.terminate() == 0


async def test_a_handler_that_fails_while_its_connection_is_lost_is_called_again(place):
    consumer = await place.consumer()
    place.outage.touch()
    message = a_message("test.loses.its.connection")

    await place.publish(message)
    await place.applies(1)

    await place.has_nothing_waiting()
    assert sum((await place.attempts()).values()) == 1
    assert await consumer.terminate() == 0


async def test_a_rate_limit_is_kept_and_delays_no_other_handler(place):
    limited = [a_message("test.at.a.rate") for _ in range(3 * RATE.messages)]
    free = [a_message("test.happened") for _ in range(20)]
    await place.consumer()
    clock = asyncio.get_running_loop().time

    began = clock()
    await place.publish_all([*limited, *free])
    await place.applies(len(free) + 1)
    while_limited = clock() - began
    await place.applies(len(limited) + len(free))
    took = clock() - began

    # The first allowance is there at once.
    assert took > 0.9 * 2 * RATE.per.total_seconds()
    assert while_limited < took
    assert await place.attempts() == once(*limited, *free)


@BOTH
async def test_while_a_dependency_is_unavailable_no_attempt_is_counted_and_others_flow(
    urls, tmp_path
):
    async with ConsumerDeployment(urls, tmp_path, MQ_MAX_RETRIES="0") as place:
        place.outage.touch()
        dependent = [a_message("test.depends") for _ in range(20)]
        free = [a_message("test.happened") for _ in range(20)]
        await place.consumer()

        await place.publish_all([*dependent, *free])
        await place.applies(len(free))
        assert await place.attempts() == once(*free)
        place.outage.unlink()
        await place.applies(len(free) + len(dependent))

        await place.has_nothing_waiting()
        assert await place.attempts() == once(*free, *dependent)
        assert await place.dead() == []


async def test_a_message_that_is_being_handled_elsewhere_waits(place):
    """Its handler works for three times its lease, which is extended."""
    message = a_message("test.leased.stop", seconds=3 * LEASE.total_seconds())
    consumers = [await place.consumer() for _ in range(2)]

    await place.publish(message, message, message)
    await eventually(lambda: status_is(place, "completed"))
    assert [await consumer.terminate() for consumer in consumers] == [0, 0]
    last = await place.consumer()
    await place.has_nothing_waiting()
    assert await last.terminate() == 0

    await place.has_nothing_waiting()
    assert len(place.calls()) == 1
    assert await place.dead() == []


async def status_is(place: ConsumerDeployment, status: str) -> bool:
    return [row["status"] for row in await place.rows(processed_messages)] == [status]


@BOTH
async def test_a_leased_handler_whose_process_dies_is_called_again_or_never(urls, tmp_path):
    """And with the same idempotency key."""
    one = {"MQ_CONCURRENCY": "1", "MQ_PREFETCH": "1"}
    async with ConsumerDeployment(urls, tmp_path, app="leasing", **one) as place:
        repeated = a_message("test.leased.repeat", hangs=True)
        stopped = a_message("test.leased.stop", hangs=True)
        doomed = []
        for message in (repeated, stopped):
            doomed.append(await place.consumer())
            await place.publish(message)
            await eventually(lambda: len(place.calls()) == len(doomed))

        for consumer in doomed:
            consumer.kill()
        place.end_leases()
        await place.consumer()
        dead = await place.buried(1)
        await eventually(lambda: len(place.calls()) == 3)
        await place.has_nothing_waiting()

        assert dead[stopped.message_id]["reason"] == "lease_expired"
        assert Counter((id_, key) for id_, key, _ in place.calls()) == {
            (repeated.message_id, key_of(repeated)): 2,
            (stopped.message_id, key_of(stopped)): 1,
        }
        rows = await place.rows(processed_messages)
        assert {str(row["message_id"]): row["status"] for row in rows} == {
            repeated.message_id: "completed",
            stopped.message_id: "failed",
        }


def key_of(message: WireMessage) -> str:
    key: str = message.headers[IDEMPOTENCY_KEY_HEADER]
    return key
