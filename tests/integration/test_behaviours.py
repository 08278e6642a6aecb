"""
Messages whose handlers ask for something, fail, hang or die.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence

import pytest
import sqlalchemy as sa

from consumer.storage.tables import processed_messages
from outbox.wire.codec import WireMessage
from outbox.wire.headers import IDEMPOTENCY_KEY_HEADER
from tests.support.behaviours import BATCH_SIZE, ERRORS, LEASE, RATE
from tests.support.builders import LEAK_MARKER
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
async def deployment(urls, tmp_path):
    async with ConsumerDeployment(urls, tmp_path) as deployment:
        yield deployment


async def with_a_backlog(
    deployment: ConsumerDeployment, messages: Sequence[WireMessage]
) -> ChildProcess:
    """Start a consumer that finds *messages* waiting."""
    assert await (await deployment.consumer()).terminate() == 0
    await deployment.publish_all(messages)
    return await deployment.consumer()


async def transactions(deployment: ConsumerDeployment) -> int:
    """How many transactions have written effects; Postgres only."""
    async with deployment.engine.connect() as connection:
        statement = sa.text("SELECT count(DISTINCT xmin::text) FROM effects")
        return int(await connection.scalar(statement) or 0)


async def test_a_backlog_is_applied_in_batches_of_one_transaction(deployment):
    messages = [a_message("test.in.batches") for _ in range(10 * BATCH_SIZE)]

    await with_a_backlog(deployment, messages)
    await deployment.applies(len(messages))

    assert await deployment.attempts() == once(*messages)
    assert await transactions(deployment) <= 20
    await deployment.has_nothing_waiting()


@BOTH
async def test_a_message_that_fails_in_a_batch_is_counted_alone_and_its_neighbours_applied_once(
    deployment,
):
    single = [a_message("test.in.batches") for _ in range(2 * BATCH_SIZE)]
    listed = [a_message("test.as.list") for _ in range(2 * BATCH_SIZE)]
    poison = [a_message(name, fails=True) for name in ("test.in.batches", "test.as.list")]

    await with_a_backlog(deployment, [*single[:5], *listed[:5], *poison, *single[5:], *listed[5:]])

    dead = await deployment.wait_for_dead_letters(2)
    await deployment.applies(len(single) + len(listed))
    assert await deployment.attempts() == once(*single, *listed)
    assert {row["attempts"] for row in dead.values()} == {4}
    assert dead.keys() == {message.message_id for message in poison}
    assert '"batch_failed"' in deployment.logs()
    await deployment.has_nothing_waiting()


async def test_duplicates_within_a_batch_and_across_batches_are_applied_once(deployment):
    single = [a_message("test.in.batches") for _ in range(BATCH_SIZE)]
    listed = [a_message("test.as.list") for _ in range(BATCH_SIZE)]
    assert await (await deployment.consumer()).terminate() == 0

    await deployment.publish(*(each for each in single + listed for _ in range(2)))
    await deployment.publish(*single, *listed)
    await deployment.consumer()
    await deployment.applies(len(single) + len(listed))
    await deployment.has_nothing_waiting()

    assert await deployment.attempts() == once(*single, *listed)
    rows = await deployment.rows(effects)
    assert {row["consumer"] for row in rows} - {"effects", "list of 1"}, "there was no batch"


@BOTH
async def test_a_handler_sets_the_delay_of_a_retry_or_rejects_its_message(deployment):
    """The one retry queue waits for 0.2 seconds."""
    soon, late = (a_message("test.wants.to.wait", seconds=wait) for wait in (0.01, 1.0))
    rejected = a_message("test.is.rejected")
    await deployment.consumer()
    clock = asyncio.get_running_loop().time

    await deployment.publish(soon)
    await deployment.applies(1)
    began = clock()
    await deployment.publish(late, rejected)
    await deployment.applies(2)

    assert clock() - began > 0.9
    assert await deployment.attempts() == once(soon, late, attempt=2)
    dead = (await deployment.wait_for_dead_letters(1))[rejected.message_id]
    assert (dead["reason"], dead["attempts"]) == ("unknown_device", 1)


@BOTH
async def test_every_error_of_a_handler_counts_as_an_attempt_and_its_process_lives(deployment):
    consumer = await deployment.consumer()
    messages = [a_message("test.raises.once", raises=name) for name in ERRORS]
    messages += [a_message("test.is.filtered", raises=name, wanted=True) for name in ERRORS]
    messages += [a_message("test.hangs.once")]
    leased = [a_message("test.leased.repeat", raises=name) for name in ERRORS]

    await deployment.publish(*messages, *leased)
    await deployment.applies(len(messages))
    await eventually(lambda: len(deployment.calls()) == 2 * len(leased))

    assert await deployment.attempts() == once(*messages, attempt=2)
    assert Counter((id_, int(attempt)) for id_, _, attempt in deployment.calls()) == (
        once(*leased) + once(*leased, attempt=2)
    )
    await deployment.has_nothing_waiting()
    assert await deployment.dead() == []
    assert await consumer.terminate() == 0


async def test_a_message_that_a_filter_drops_is_acked_and_leaves_no_trace(deployment):
    await deployment.consumer()
    broken = a_message("test.is.filtered")
    wanted = a_message("test.is.filtered", wanted=True)

    await deployment.publish(a_message("test.is.filtered", wanted=False), broken, wanted)
    dead = await deployment.wait_for_dead_letters(1)
    await deployment.applies(1)

    await deployment.has_nothing_waiting()
    assert await deployment.attempts() == once(wanted)
    assert dead[broken.message_id]["reason"] == "retries_exhausted"
    statuses = Counter(row["status"] for row in await deployment.rows(processed_messages))
    assert statuses == {"completed": 1, "failed": 1}


async def test_a_handler_that_blocks_the_loop_beyond_all_heartbeats_is_applied_once(
    urls, tmp_path
):
    async with ConsumerDeployment(urls, tmp_path, MQ_HEARTBEAT_SECONDS="1") as deployment:
        consumer = await deployment.consumer()
        blocking, after = (
            a_message("test.blocks.the.loop", seconds=3.5),
            a_message("test.happened"),
        )

        await deployment.publish(blocking)
        await deployment.publish(after)
        await deployment.applies(2)

        await deployment.has_nothing_waiting()
        assert await deployment.attempts() == once(blocking, after)
        assert await consumer.terminate() == 0


async def test_a_handler_that_fails_while_its_connection_is_lost_is_called_again(deployment):
    consumer = await deployment.consumer()
    deployment.outage.touch()
    message = a_message("test.loses.its.connection")

    await deployment.publish(message)
    await deployment.applies(1)

    await deployment.has_nothing_waiting()
    assert sum((await deployment.attempts()).values()) == 1
    assert await consumer.terminate() == 0


async def test_a_rate_limit_is_kept_and_delays_no_other_handler(deployment):
    limited = [a_message("test.at.a.rate") for _ in range(3 * RATE.messages)]
    free = [a_message("test.happened") for _ in range(20)]
    await deployment.consumer()
    clock = asyncio.get_running_loop().time

    began = clock()
    await deployment.publish_all([*limited, *free])
    await deployment.applies(len(free) + 1)
    while_limited = clock() - began
    await deployment.applies(len(limited) + len(free))
    took = clock() - began

    # The first allowance is there at once.
    assert took > 0.9 * 2 * RATE.per.total_seconds()
    assert while_limited < took
    assert await deployment.attempts() == once(*limited, *free)


@BOTH
async def test_while_a_dependency_is_unavailable_no_attempt_is_counted_and_others_flow(
    urls, tmp_path
):
    async with ConsumerDeployment(urls, tmp_path, MQ_MAX_RETRIES="0") as deployment:
        deployment.outage.touch()
        dependent = [a_message("test.depends") for _ in range(20)]
        free = [a_message("test.happened") for _ in range(20)]
        await deployment.consumer()

        await deployment.publish_all([*dependent, *free])
        await deployment.applies(len(free))
        assert await deployment.attempts() == once(*free)
        deployment.outage.unlink()
        await deployment.applies(len(free) + len(dependent))

        await deployment.has_nothing_waiting()
        assert await deployment.attempts() == once(*free, *dependent)
        assert await deployment.dead() == []


async def test_a_message_that_is_being_handled_elsewhere_waits(deployment):
    """Its handler works for three times its lease, which is extended."""
    message = a_message("test.leased.stop", seconds=3 * LEASE.total_seconds())
    consumers = [await deployment.consumer() for _ in range(2)]

    await deployment.publish(message, message, message)
    await eventually(lambda: status_is(deployment, "completed"))
    assert [await consumer.terminate() for consumer in consumers] == [0, 0]
    last = await deployment.consumer()
    await deployment.has_nothing_waiting()
    assert await last.terminate() == 0

    await deployment.has_nothing_waiting()
    assert len(deployment.calls()) == 1
    assert await deployment.dead() == []


async def status_is(deployment: ConsumerDeployment, status: str) -> bool:
    return [row["status"] for row in await deployment.rows(processed_messages)] == [status]


@BOTH
async def test_a_leased_handler_whose_process_dies_is_called_again_or_never(urls, tmp_path):
    """And with the same idempotency key."""
    one = {"MQ_CONCURRENCY": "1", "MQ_PREFETCH": "1"}
    async with ConsumerDeployment(urls, tmp_path, app="leasing", **one) as deployment:
        repeated = a_message("test.leased.repeat", hangs=True)
        stopped = a_message("test.leased.stop", hangs=True)
        doomed = []
        for message in (repeated, stopped):
            doomed.append(await deployment.consumer())
            await deployment.publish(message)
            await eventually(lambda: len(deployment.calls()) == len(doomed))

        for consumer in doomed:
            consumer.kill()
        deployment.end_leases()
        await deployment.consumer()
        dead = await deployment.wait_for_dead_letters(1)
        await eventually(lambda: len(deployment.calls()) == 3)
        await deployment.has_nothing_waiting()

        assert dead[stopped.message_id]["reason"] == "lease_expired"
        assert Counter((id_, key) for id_, key, _ in deployment.calls()) == {
            (repeated.message_id, key_of(repeated)): 2,
            (stopped.message_id, key_of(stopped)): 1,
        }
        rows = await deployment.rows(processed_messages)
        assert {str(row["message_id"]): row["status"] for row in rows} == {
            repeated.message_id: "completed",
            stopped.message_id: "failed",
        }


def key_of(message: WireMessage) -> str:
    key: str = message.headers[IDEMPOTENCY_KEY_HEADER]
    return key


async def test_each_line_that_a_handler_causes_on_standard_error_is_a_line_of_the_log(
    postgres_url, embedded_broker_url, tmp_path
):
    async with ConsumerDeployment((postgres_url, embedded_broker_url), tmp_path) as deployment:
        consumer = await deployment.consumer()
        await deployment.publish(a_message("test.tells", marker=LEAK_MARKER))
        await deployment.applies(1)
        assert await consumer.terminate() == 0

        lines = [json.loads(line) for line in consumer.output.splitlines()]
    told = [(line["component"], line["event"]) for line in lines]
    assert ("myapp.handlers", "took an hour") in told
    assert ("python", "python_warning") in told
    assert ("stderr", "a printed line") in told
    assert told.count(("python", "uncaught_error")) == 2
    assert {line["error"] for line in lines if "error" in line} == {"KeyError"}
    assert LEAK_MARKER not in deployment.logs()


@pytest.mark.parametrize("payload", [{}, {"deallocates": True}])
async def test_a_statement_older_than_the_schema_costs_no_attempt(
    postgres_url, rabbitmq_url, tmp_path, payload
):
    """Another session adds a column; a handler deallocates the statements of its session once."""
    async with ConsumerDeployment(
        (postgres_url, rabbitmq_url), tmp_path, MQ_MAX_RETRIES="0"
    ) as deployment:
        consumer = await deployment.consumer()
        before, after = (
            [a_message("test.reads.all.columns") for _ in range(30)] for _ in range(2)
        )
        await deployment.publish_all(before)
        await deployment.applies(len(before))
        async with deployment.engine.begin() as connection:
            await connection.execute(sa.text("ALTER TABLE effects ADD COLUMN more text"))
        odd = [a_message("test.reads.all.columns", **payload)] if payload else []

        await deployment.publish_all([*after, *odd])
        await deployment.applies(len(before) + len(after))

        await deployment.has_nothing_waiting()
        dead = {row["message_id"] for row in await deployment.dead()}
        assert dead <= {message.message_id for message in odd}
        attempts = await deployment.attempts()
        assert attempts - once(*odd) == once(*before, *after)
        assert await consumer.terminate() == 0
