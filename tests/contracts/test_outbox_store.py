"""
The contract of all outbox stores. Add a new kind to the fixture `new_store`.
"""

import asyncio
import itertools
import json
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from outbox.backoff import Exponential
from outbox.database.engine import create_engine
from outbox.errors import UnreadableMessage
from outbox.tables import dead_letters
from outbox.tables import outbox as table
from outbox.transports.base import Outcome
from outbox.wire import row_codec
from relay.storage.base import OutboxStore
from relay.storage.sqlite import SqliteStore
from relay.verdict import DeadLetter, Delete, Leave, Retry, decide
from tests.support.builders import an_event
from tests.support.eventually import eventually
from tests.support.relay_stores import postgres_store

AT_ONCE = timedelta(milliseconds=1)
LATER = timedelta(hours=1)


async def record(engine: AsyncEngine, *events: outbox.Event) -> None:
    async with engine.begin() as connection:
        for event in events:
            await connection.execute(outbox.insert(event))


SIZE = 1_000_000


async def claimed_types(store: OutboxStore, *, limit: int = 100, size: int = SIZE) -> list[str]:
    types: list[str] = []

    async def looked() -> bool:
        async with store.claim(limit=limit, size=size) as claim:
            types[:] = [row.values["type"] for row in claim.rows]
            return bool(types) or not claim.more

    await eventually(looked, within=30)
    return types


async def settle_first(store: OutboxStore, verdict, *arguments) -> None:
    async with store.claim(limit=100, size=SIZE) as claim:
        await claim.settle([verdict(claim.rows[0], *arguments)])


async def count(engine: AsyncEngine, of: sa.Table = table) -> int:
    async with engine.connect() as connection:
        return await connection.scalar(sa.select(sa.func.count()).select_from(of)) or 0


async def test_rows_are_claimed_in_order_of_insertion(engine, store):
    await record(engine, *(an_event(type=f"n.{i}") for i in range(5)))

    assert await claimed_types(store, limit=3) == ["n.0", "n.1", "n.2"]


async def test_a_claim_that_is_not_settled_leaves_no_trace(engine, store):
    await record(engine, an_event(type="a"))

    await claimed_types(store)

    assert await claimed_types(store) == ["a"]


async def test_a_claim_holds_the_whole_event(engine, store):
    event = an_event(
        headers={"source": "s"}, correlation_id="c", priority="high", ordering_key="k"
    )
    await record(engine, event)

    async with store.claim(limit=1, size=SIZE) as claim:
        values = claim.rows[0].values

    assert values["event_id"] == event.id
    assert values["body"] == event.body
    assert json.loads(values["headers"]) == {"source": "s"}
    assert values["occurred_at"] == event.occurred_at
    assert values["priority"] == "high"
    assert abs(datetime.now(UTC) - claim.rows[0].created_at) < timedelta(seconds=30)


async def test_settling_carries_out_each_verdict(engine, store):
    await record(engine, *(an_event(type=t) for t in ("sent", "later", "hopeless", "unknown")))

    async with store.claim(limit=10, size=SIZE) as claim:
        sent, later, hopeless, unknown = claim.rows
        await claim.settle(
            [
                Delete(sent),
                Retry(later, LATER, "unroutable"),
                DeadLetter(hopeless, "rejected"),
                Leave(unknown),
            ]
        )

    assert await claimed_types(store) == ["unknown"]
    async with engine.connect() as connection:
        rows = (await connection.execute(sa.select(table).order_by(table.c.id))).all()
        dead = (await connection.execute(sa.select(dead_letters))).one()
    assert [(row.type, row.attempts, row.last_error) for row in rows] == [
        ("later", 1, "unroutable"),
        ("unknown", 0, None),
    ]
    assert rows[0].not_before - datetime.now(UTC) > LATER - timedelta(minutes=5)
    assert (dead.source, dead.reason, dead.attempts) == ("relay", "rejected", 1)
    assert (dead.type, dead.body) == ("hopeless", hopeless.values["body"])
    assert dead.message_id == str(hopeless.values["event_id"])


async def test_a_dead_letter_has_the_row_as_the_database_holds_it(engine, store):
    await record(engine, an_event(type="a"))
    async with store.claim(limit=10, size=SIZE) as claim:
        (row,) = claim.rows
        stored = dict(row.values)
        # The database copies the row: values that were not read, or were read wrongly, do no harm.
        row.values = {"event_id": None}
        await claim.settle([DeadLetter(row, "malformed")])

    assert await claimed_types(store) == []
    async with engine.connect() as connection:
        dead = (await connection.execute(sa.select(dead_letters))).mappings().one()
    assert {name: dead[name] for name in ("type", "body", "occurred_at")} == {
        name: stored[name] for name in ("type", "body", "occurred_at")
    }
    assert dead["headers"] == {}
    assert dead["message_id"] == str(stored["event_id"])


async def test_a_row_waits_until_its_time_and_is_then_promoted(engine, store):
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    await record(engine, an_event(type="soon", not_before=soon))
    assert await store.promote() == 0
    assert await claimed_types(store) == []

    assert await eventually(store.promote) == 1

    assert await claimed_types(store) == ["soon"]
    assert datetime.now(UTC) >= soon


async def test_the_first_waiting_row_tells_how_long_to_wait(engine, store):
    assert await store.due_in() is None
    await record(engine, an_event())
    assert await store.due_in() is None

    await record(engine, an_event(not_before=datetime.now(UTC) + timedelta(minutes=1)))
    due_in = await store.due_in()
    assert due_in is not None
    assert timedelta(seconds=30) < due_in <= timedelta(minutes=1)

    await record(engine, an_event(not_before=datetime.now(UTC) - timedelta(minutes=1)))
    assert await store.due_in() == timedelta(0)


async def test_rows_of_one_key_are_claimed_from_the_first_on(engine, store):
    await record(engine, *(an_event(type=f"k.{i}", ordering_key="k") for i in range(6)))

    assert await claimed_types(store, limit=4) == ["k.0", "k.1", "k.2", "k.3"]


async def test_a_key_whose_first_row_waits_blocks_no_other_key(engine, store):
    await record(
        engine,
        an_event(type="k.0", ordering_key="k"),
        an_event(type="k.1", ordering_key="k"),
        an_event(type="other.0", ordering_key="other"),
        an_event(type="free"),
    )
    await settle_first(store, Retry, LATER, "refused")

    assert await claimed_types(store) == ["other.0", "free"]


async def test_a_key_continues_after_a_row_that_was_dead_lettered(engine, store):
    await record(engine, *(an_event(type=f"k.{i}", ordering_key="k") for i in range(2)))
    await settle_first(store, DeadLetter, "malformed")

    assert await claimed_types(store) == ["k.1"]


async def test_a_key_ends_before_a_later_row_that_waits(engine, store):
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    await record(
        engine,
        an_event(type="k.0", ordering_key="k"),
        an_event(type="k.1", ordering_key="k", not_before=tomorrow),
        an_event(type="k.2", ordering_key="k"),
    )

    assert await claimed_types(store) == ["k.0"]


async def test_a_claim_is_never_larger_than_asked(engine, store):
    await record(engine, *(an_event(ordering_key=f"k{i}") for i in range(5)))
    await record(engine, *(an_event() for _ in range(5)))

    for limit in range(1, 12):
        assert 0 < len(await claimed_types(store, limit=limit)) <= limit


async def test_keys_leave_room_for_rows_without_one(engine, store):
    await record(engine, *(an_event(type="keyed", ordering_key=f"k{i}") for i in range(20)))
    await record(engine, *(an_event(type="free") for _ in range(20)))

    for _ in range(4):  # the share of keys grows with the number of keys found
        types = await claimed_types(store, limit=10)

    assert (types.count("keyed"), types.count("free")) == (5, 5)


async def test_a_batch_is_full_though_all_rows_have_keys(engine, store):
    await record(engine, *(an_event(type="keyed", ordering_key=f"k{i}") for i in range(20)))

    assert len(await claimed_types(store, limit=10)) == 10


async def test_a_claim_is_bounded_in_bytes_too(engine, store):
    body = {"content_type": "application/octet-stream", "payload": b"x" * 1_000}
    await record(engine, *(an_event(type=f"n.{i}", **body) for i in range(9)))
    await record(engine, *(an_event(type=f"k.{i}", ordering_key="k", **body) for i in range(9)))

    async with store.claim(limit=100, size=5_000) as claim:
        types = [row.values["type"] for row in claim.rows]
        assert claim.more

    assert types == ["n.0", "n.1", "n.2", "n.3", "n.4", "k.0"]


async def test_a_row_larger_than_the_batch_limit_is_claimed_alone(engine, store):
    body = {"content_type": "application/octet-stream", "payload": b"x" * 1_000}
    await record(engine, *(an_event(type=f"n.{i}", **body) for i in range(2)))

    for number in range(2):
        async with store.claim(limit=100, size=10) as claim:
            assert [row.values["type"] for row in claim.rows] == [f"n.{number}"]
            assert claim.more is (number == 0)
            await claim.settle([Delete(claim.rows[0])])
    assert await claimed_types(store) == []


async def test_every_key_is_claimed_in_turn_among_many_keys(engine, store):
    await record(engine, *(an_event(type=f"k.{i}", ordering_key=f"k{i:02}") for i in range(50)))
    await record(engine, *(an_event(type=f"n.{i}") for i in range(50)))

    seen: set[str] = set()
    for _ in range(20):
        seen.update(await claimed_types(store, limit=10))

    assert {f"k.{i}" for i in range(50)} <= seen


async def test_a_key_is_found_behind_many_that_wait(engine, store):
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    for number in range(50):
        await record(
            engine,
            an_event(ordering_key=f"k{number:02}", not_before=tomorrow),
            an_event(ordering_key=f"k{number:02}"),
        )
    await record(engine, an_event(type="last", ordering_key="z"))

    async def found() -> bool:
        async with store.claim(limit=4, size=SIZE) as claim:
            assert claim.more
            return [row.values["type"] for row in claim.rows] == ["last"]

    for _ in range(50):
        if await found():
            return
    pytest.fail("never found")


async def test_a_claim_reports_whether_more_rows_may_exist(engine, store):
    await record(engine, *(an_event() for _ in range(5)))

    async with store.claim(limit=4, size=SIZE) as claim:
        assert claim.more
    async with store.claim(limit=6, size=SIZE) as claim:
        assert not claim.more


async def commit_late(engine: AsyncEngine, store: OutboxStore) -> None:
    """Commit a row whose id is lower than the ids that *store* has claimed already."""
    await record(engine, an_event(type="late"), an_event(type="early"))
    async with engine.begin() as connection:
        late = (await connection.execute(sa.select(table).where(table.c.type == "late"))).one()
        await connection.execute(sa.delete(table).where(table.c.id == late.id))
    await settle_first(store, Delete)
    async with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            await connection.execute(
                sa.text("ALTER TABLE outbox ALTER COLUMN id SET GENERATED BY DEFAULT")
            )
        await connection.execute(sa.insert(table).values(**late._asdict()))


async def test_a_row_that_was_committed_late_is_found_though_later_ones_are_gone(engine, store):
    await commit_late(engine, store)

    assert await claimed_types(store) == ["late"]


async def test_a_row_that_was_committed_late_is_found_by_frequent_claims_of_a_slow_database(
    engine, new_store
):
    """A scan takes some milliseconds here, and after a full one the next has to wait."""
    clock = (reading * 0.002 for reading in itertools.count())
    store = new_store(clock=lambda: next(clock))
    await commit_late(engine, store)

    for _ in range(20):
        async with store.claim(limit=100, size=SIZE) as claim:
            if claim.rows:
                return
    pytest.fail("never found")


async def test_a_released_row_is_found_though_later_ones_are_gone(engine, store):
    await record(engine, *(an_event(type=f"n.{i}") for i in range(4)))

    async with store.claim(limit=2, size=SIZE) as claim:
        left, sent = claim.rows
        await claim.settle([Leave(left), Delete(sent)])

    assert await claimed_types(store) == ["n.0", "n.2", "n.3"]


async def test_a_row_whose_time_has_come_is_found_though_later_ones_are_gone(engine, store):
    await record(engine, *(an_event(type=f"n.{i}") for i in range(4)))
    async with store.claim(limit=2, size=SIZE) as claim:
        later, sent = claim.rows
        await claim.settle([Retry(later, AT_ONCE, "refused"), Delete(sent)])

    await eventually(store.promote)

    assert await claimed_types(store) == ["n.0", "n.2", "n.3"]


async def set_aside(engine: AsyncEngine, kind: str) -> None:
    """Set `not_before` of the rows of this type to tomorrow."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    async with engine.begin() as connection:
        await connection.execute(
            sa.update(table).where(table.c.type == kind).values(not_before=tomorrow)
        )


async def take_back(engine: AsyncEngine, kind: str) -> None:
    """Make them ready as another relay does, so that the store does not notice."""
    async with engine.begin() as connection:
        await connection.execute(
            sa.update(table).where(table.c.type == kind).values(not_before=None)
        )


async def take_all(store: OutboxStore) -> list[str]:
    """Claim rows and delete them."""
    async with store.claim(limit=100, size=SIZE) as claim:
        await claim.settle([Delete(row) for row in claim.rows])
        return [row.values["type"] for row in claim.rows]


async def test_skipped_rows_are_found_though_a_key_waits_in_front(engine, store):
    await record(engine, an_event(type="hidden"), an_event(type="key.1", ordering_key="k"))
    await set_aside(engine, "hidden")
    await set_aside(engine, "key.1")
    await record(engine, an_event(type="seen"), an_event(type="other", ordering_key="o"))
    assert await take_all(store) == ["seen", "other"]
    await record(engine, an_event(type="key.2", ordering_key="k"))

    await take_back(engine, "hidden")

    assert await claimed_types(store) == ["hidden"]


async def test_many_skipped_rows_of_a_key_come_one_batch_after_another(engine, store):
    await record(engine, *(an_event(type="hidden", ordering_key="k") for _ in range(60)))
    await set_aside(engine, "hidden")
    await record(engine, an_event(type="seen", ordering_key="o"))
    assert await take_all(store) == ["seen"]
    await take_back(engine, "hidden")

    async def found() -> bool:
        return await take_all(store) != []

    await eventually(found, within=30)
    for _ in range(10):  # fewer would suffice without the rows in between
        await record(engine, an_event(type="free"))
        await take_all(store)

    assert await count(engine) == 0


async def test_a_claim_that_finds_only_keys_held_by_others_reports_more_rows(postgres_url):
    engine = create_engine(make_url(postgres_url), pool_size=5, application_name="test")
    body = {"content_type": "application/octet-stream", "payload": b"x" * 1_000}
    await record(
        engine, *(an_event(type=f"k.{i}", ordering_key=f"k{i}", **body) for i in range(9))
    )
    async with (
        postgres_store(engine) as first,
        postgres_store(engine) as second,
        first.claim(limit=100, size=2_000) as claim,
    ):
        assert claim.rows
        async with second.claim(limit=100, size=2_000) as other:
            assert (other.rows, other.more) == ([], True)
    await engine.dispose()


async def test_two_claims_of_one_relay_never_hold_the_same_row(engine, store):
    await record(engine, *(an_event() for _ in range(40)))
    await record(engine, *(an_event(ordering_key=f"k{i % 5}") for i in range(40)))
    held: set[int] = set()
    done: list[int] = []

    async def shift() -> None:
        while True:
            async with store.claim(limit=6, size=SIZE) as claim:
                ids = {row.id for row in claim.rows}
                assert held.isdisjoint(ids)
                held.update(ids)
                await claim.settle([Delete(row) for row in claim.rows])
                held.difference_update(ids)
                done.extend(ids)
                if not claim.rows and not claim.more:
                    return

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(shift())
        group.create_task(shift())

    assert len(done) == len(set(done)) == 80


async def test_a_due_retry_is_counted_again(engine, store):
    await record(engine, an_event())
    await settle_first(store, Retry, AT_ONCE, "refused")
    await eventually(store.promote)

    async with store.claim(limit=1, size=SIZE) as claim:
        assert claim.rows[0].attempts == 1
        verdict = decide(claim.rows[0], Outcome.NACKED, Exponential(max_attempts=2))

    assert verdict == DeadLetter(claim.rows[0], "refused")


async def test_the_backlog_is_counted_with_the_age_of_its_oldest_row(engine, store):
    assert (await store.backlog()).rows == 0
    await record(engine, an_event(), an_event())

    backlog = await store.backlog()

    assert backlog.rows == 2
    assert timedelta(0) <= backlog.oldest_ready_age < timedelta(minutes=1)


async def test_a_second_relay_never_holds_a_row_of_the_first(engine, store, new_store):
    await record(engine, *(an_event(type=f"n.{i}") for i in range(6)))
    await record(engine, *(an_event(type=f"k.{i}", ordering_key="k") for i in range(3)))
    second = new_store()

    async with AsyncExitStack() as stack:
        first_claim = await stack.enter_async_context(store.claim(limit=8, size=SIZE))
        second_claim = await stack.enter_async_context(second.claim(limit=50, size=SIZE))

        first = {row.id for row in first_claim.rows}
        assert first
        assert first.isdisjoint(row.id for row in second_claim.rows)
        assert not any(row.ordering_key for row in second_claim.rows)


async def test_a_late_commit_of_a_key_puts_no_row_into_two_claims(postgres_url):
    """Its transactions did not serialise, so no order is promised; exclusion is."""
    engine = create_engine(make_url(postgres_url), pool_size=5, application_name="test")
    async with engine.connect() as late:
        await late.execute(outbox.insert(an_event(type="k.1", ordering_key="k")))
        await record(engine, an_event(type="k.2", ordering_key="k"))
        async with (
            postgres_store(engine) as first,
            postgres_store(engine) as second,
            first.claim(limit=10, size=SIZE) as claim,
        ):
            assert [row.values["type"] for row in claim.rows] == ["k.2"]
            await late.commit()

            assert await claimed_types(second) == ["k.1"]
    await engine.dispose()


async def test_large_rows_of_one_key_leave_room_for_other_keys(engine, store):
    body = {"content_type": "application/octet-stream", "payload": b"x" * 1_000}
    await record(engine, *(an_event(type="hot", ordering_key="hot", **body) for _ in range(50)))
    await record(
        engine, *(an_event(type=f"k.{i}", ordering_key=f"k{i}", **body) for i in range(3))
    )

    seen: set[str] = set()
    for _ in range(3):
        seen.update(await claimed_types(store, size=5_000))

    assert seen == {"hot", "k.0", "k.1", "k.2"}


@pytest.mark.parametrize("key", ["", "a\0b", b"A"])
async def test_an_ordering_key_written_by_sql_is_claimed_too(sqlite_url, key):
    """The relay then moves it to dead_letters, where an operator sees it."""
    engine = create_engine(make_url(sqlite_url), pool_size=5, application_name="test")
    await record(engine, an_event(ordering_key="k"))
    async with engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE outbox SET ordering_key = ?", (key,))

    assert await claimed_types(SqliteStore(engine)) == ["test.happened"]
    await engine.dispose()


UNBOUNDED = {
    "postgresql": [
        *(
            f"ALTER TABLE outbox DROP CONSTRAINT outbox_{name}_check"
            for name in ("body", "headers", "type", "correlation_id")
        ),
        "UPDATE outbox SET body = convert_to(repeat('x', 20000000), 'UTF8') WHERE type = 'a'",
        "UPDATE outbox SET type = repeat('t', 70000) WHERE type = 'b'",
        """UPDATE outbox SET headers = jsonb_build_object('source', (
            SELECT string_agg(md5(n::text), '') FROM generate_series(1, 9000) n
        )) WHERE type = 'c'""",
    ],
    "sqlite": [
        "DROP TRIGGER outbox_bounds_update",
        "UPDATE outbox SET body = zeroblob(20000000) WHERE type = 'a'",
        "UPDATE outbox SET type = hex(zeroblob(35000)) WHERE type = 'b'",
        """UPDATE outbox SET headers = json_object('source', hex(zeroblob(140000)))
        WHERE type = 'c'""",
    ],
}


async def test_a_row_that_others_have_deleted_meanwhile_is_no_error(sqlite_url):
    """A claim in a SQLite file holds no lock."""
    engine = create_engine(make_url(sqlite_url), pool_size=5, application_name="test")
    store = SqliteStore(engine)
    await record(engine, an_event(type="a"))
    async with store.claim(limit=100, size=SIZE) as claim:
        async with engine.begin() as connection:
            await connection.execute(sa.delete(table))
        await claim.settle([Delete(claim.rows[0])])
    await engine.dispose()


async def test_a_row_without_bounds_is_not_read_and_the_database_sets_it_aside(engine, store):
    """So rows from before the constraints delay no others."""
    await record(engine, *(an_event(type=name, correlation_id=name) for name in "abcd"))
    async with engine.begin() as connection:
        for statement in UNBOUNDED[engine.dialect.name]:
            await connection.exec_driver_sql(statement)

    async with store.claim(limit=10, size=SIZE) as claim:
        assert [row.values["body"] is None for row in claim.rows] == [True, True, True, False]
        for row in claim.rows[:3]:
            with pytest.raises(UnreadableMessage, match="malformed"):
                row_codec.from_row(row.values)
        await claim.settle([DeadLetter(row, "malformed") for row in claim.rows[:3]])

    async with engine.connect() as connection:
        dead = (await connection.execute(sa.select(dead_letters))).mappings().all()
    assert {row["correlation_id"]: len(row["body"]) for row in dead} == {
        "a": 20_000_000,
        "b": 12,
        "c": 12,
    }
    assert [row["type"] for row in dead] == ["a", None, "c"]
    assert {str(row["headers"]) for row in dead} == {"{}"}
    assert await claimed_types(store) == ["d"]


async def test_the_age_of_the_backlog_includes_rows_whose_publish_failed(engine, store):
    later = datetime.now(UTC) + LATER
    await record(engine, an_event(type="failed"), an_event(type="planned", not_before=later))
    await settle_first(store, Retry, LATER, "unroutable")
    async with engine.begin() as connection:
        # As text, which both databases compare and read as a time.
        await connection.exec_driver_sql(
            "UPDATE outbox SET created_at = CASE type WHEN 'failed'"
            " THEN '2026-01-01 00:00:00' ELSE '2025-01-01 00:00:00' END"
            if engine.dialect.name == "sqlite"
            else "UPDATE outbox SET created_at = CASE type WHEN 'failed'"
            " THEN timestamptz '2026-01-01 00:00:00+00' ELSE '2025-01-01 00:00:00+00' END"
        )

    backlog = await store.backlog()

    expected = datetime.now(UTC) - datetime(2026, 1, 1, tzinfo=UTC)
    assert backlog.oldest_ready_age == timedelta(0)
    assert abs(backlog.oldest_age - expected) < timedelta(minutes=5)


async def set_columns(engine: AsyncEngine, event_type: str, **values) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            sa.update(table).where(table.c.type == event_type).values(**values)
        )


async def one_event_of_each_state(engine: AsyncEngine, *, later: datetime) -> None:
    """Types have the names of their states; `again` and `due` are ready."""
    await record(
        engine,
        *(an_event(type=name) for name in ("ready", "again", "unroutable", "refused")),
        *(an_event(type=name) for name in ("unsettled", "unheard", "due")),
        an_event(type="waiting", not_before=later),
        an_event(type="unroutable", routing_key="payment.made", ordering_key="k"),
        an_event(type="blocked", ordering_key="k"),
        an_event(type="blocked", ordering_key="k"),
        an_event(type="ready", ordering_key="other"),
    )
    for code in ("unroutable", "refused", "unsettled"):
        await set_columns(engine, code, last_error=code, attempts=3, not_before=later)
    await set_columns(engine, "unheard", last_error="a text of others", not_before=later)
    await set_columns(engine, "again", last_error="refused", attempts=2)
    await set_columns(engine, "due", not_before=datetime.now(UTC) - LATER)
    await set_columns(engine, "blocked", created_at=datetime.now(UTC) - 2 * LATER)
    await set_columns(engine, "waiting", created_at=datetime.now(UTC) - 9 * LATER)


async def test_the_backlog_says_of_each_event_why_it_has_not_left(engine, store):
    assert (await store.backlog()).events == []
    await one_event_of_each_state(engine, later=datetime.now(UTC) + LATER)

    backlog = await store.backlog()

    assert backlog.rows == 12
    assert all(group.exact and not group.routes for group in backlog.events)
    assert {
        (group.state.value, group.type, group.reason): (group.rows, group.attempts)
        for group in backlog.events
    } == {
        ("ready", "ready", None): (2, 0),
        ("ready", "again", "refused"): (1, 2),
        ("ready", "due", None): (1, 0),
        ("unroutable", "unroutable", "unroutable"): (2, 3),
        ("refused", "refused", "refused"): (1, 3),
        ("unsettled", "unsettled", "unsettled"): (1, 3),
        ("blocked", "blocked", "unroutable"): (2, 0),
        ("waiting", "unheard", "other"): (1, 0),
        ("waiting", "waiting", None): (1, 0),
    }
    due_in = {group.type: group.next_attempt_in for group in backlog.events}
    assert due_in["ready"] is due_in["again"] is None
    assert due_in["due"] == timedelta(0)
    for name in ("unroutable", "blocked", "waiting"):
        assert LATER - timedelta(minutes=5) < (due_in[name] or LATER) <= LATER
    # The waiting event is older, and its producer wants it to wait.
    assert abs(backlog.oldest_age - 2 * LATER) < timedelta(minutes=5)
    assert backlog.oldest_ready_age < timedelta(minutes=5)


async def test_events_are_grouped_by_routing_key_if_asked_for(engine, store):
    await record(
        engine,
        *(an_event(type="t", routing_key="a.b") for _ in range(3)),
        *(an_event(type="t", routing_key=f"n.{n}") for n in range(7)),
    )
    await set_columns(engine, "t", exchange="elsewhere")

    [group] = (await store.backlog(by_route=True)).events

    assert (group.rows, len(group.routes)) == (10, 5)
    assert [(each.exchange, each.rows) for each in group.routes][:2] == [
        ("elsewhere", 3),
        ("elsewhere", 1),
    ]
    assert group.routes[0].routing_key == "a.b"


async def test_a_measurement_reads_a_part_of_a_large_backlog_and_says_so(engine, store):
    later = datetime.now(UTC) + LATER
    await record(
        engine,
        *(an_event(type=f"n.{n}") for n in range(6)),
        an_event(type="planned", not_before=later),
    )

    backlog = await store.backlog(limit=4)

    assert [(group.type, group.rows, group.exact) for group in backlog.events] == [
        *((f"n.{n}", 1, False) for n in range(4)),
        ("planned", 1, True),
    ]
    assert backlog.rows >= 5


async def test_a_measurement_counts_what_a_relay_holds_and_disturbs_no_claim(postgres_url):
    """A claim in a SQLite file holds no lock, so there the events are ready until they leave."""
    engine = create_engine(make_url(postgres_url), pool_size=5, application_name="test")
    async with postgres_store(engine) as store:
        await record(engine, *(an_event(type="t", ordering_key=key) for key in (None, "k", "k")))

        async with store.claim(limit=1, size=SIZE) as claim:
            during = (await store.backlog()).events
            async with store.claim(limit=10, size=SIZE) as others:
                held = len(claim.rows) + len(others.rows)
                during_both = (await store.backlog()).events
        after = (await store.backlog()).events

    assert {each.state.value: each.rows for each in during} == {"in_flight": 1, "ready": 2}
    assert {each.state.value: each.rows for each in during_both} == {"in_flight": held}
    assert {each.state.value: each.rows for each in after} == {"ready": 3}
    await engine.dispose()
