"""
Reading, replaying and dropping dead letters, in both databases.
"""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from consumer.storage import stored_message
from consumer.storage.completed import CompletedMessages
from consumer.storage.dedup import Dedup
from outbox.audit.log import is_known
from outbox.audit_tables import audit_log
from outbox.database_time import now_plus
from outbox.dead_letters.maintenance import DeadLetterMaintenance
from outbox.dead_letters.replay import BATCH
from outbox.dead_letters.report import DeadLetterReport
from outbox.dead_letters.selection import Selection
from outbox.dead_letters.store import DeadLetters, LetterGroup, Order, ReasonCount, Span
from outbox.runtime import logs
from outbox.runtime.process import Availability
from outbox.tables import dead_letters, outbox
from outbox.wire import codec, row_codec
from relay.replay import ALREADY_IN_OUTBOX, ToOutbox
from tests.support.builders import LEAK_MARKER, an_event
from tests.support.dead_letters import (
    SOURCE,
    Recorder,
    a_dead_letter,
    a_dead_letter_of_the_relay,
    a_run,
    audit_rows,
    audited,
    remaining,
    write_dead_letter,
    write_dead_letters,
)

AN_HOUR = timedelta(hours=1)
EARLY, LATE, LATER = (datetime(2026, 3, day, 8, 30, tzinfo=UTC) for day in (1, 2, 3))


async def selected(engine: AsyncEngine, selection: Selection) -> list[int]:
    found = DeadLetters(SOURCE)
    async with engine.connect() as connection:
        where = selection.where(SOURCE, await found.snapshot(connection))
        rows = await found.read(connection, where=where, span=Span(0, 100), bodies=False)
    return [row["id"] for row in rows]


@pytest.mark.parametrize(
    "selection",
    [
        Selection(type="test.wanted"),
        Selection(reason="malformed"),
        Selection(older_than=AN_HOUR),
        Selection(key="idem"),
        Selection(key="order"),
        Selection(error="IntegrityError"),
        Selection(error="IntegrityError 23505"),
        Selection(place="clinic/etl_1.py"),
        Selection(place="clinic/etl_1.py:42"),
        Selection(since=datetime.now(UTC) - 3 * AN_HOUR, until=datetime.now(UTC) - AN_HOUR),
        Selection(type="test.wanted", reason="malformed", older_than=AN_HOUR, key="idem"),
    ],
)
async def test_a_filter_finds_matching_dead_letters_only(engine, selection):
    wanted = a_dead_letter(
        type="test.wanted",
        reason="malformed",
        age_seconds=7200,
        idempotency_key="idem",
        ordering_key="order",
        error_class="IntegrityError 23505",
        error_place="clinic/etl_1.py:42 in load",
    )
    alike = a_dead_letter(error_class="IntegrityErrors", error_place="clinic/etlX1.py:421 in load")
    _, id_, _, _ = await write_dead_letter(
        engine, a_dead_letter(), wanted, {**wanted, "source": "another"}, alike
    )

    assert await selected(engine, selection) == [id_]


async def test_a_filter_finds_newer_and_single_dead_letters(engine):
    old, new = await write_dead_letter(engine, a_dead_letter(age_seconds=7200), a_dead_letter())

    assert await selected(engine, Selection(newer_than=AN_HOUR)) == [new]
    assert await selected(engine, Selection(ids=(old,))) == [old]
    assert await selected(engine, Selection(ids=(old,), newer_than=AN_HOUR)) == []
    assert await selected(engine, Selection()) == [old, new]


FAILED = {"error_class": "ValueError", "error_place": "etl.py:7 in load"}


async def test_dead_letters_are_grouped_by_their_cause_up_to_the_limit(engine):
    first, *_ = await write_dead_letter(
        engine,
        a_dead_letter(type="a", first_at=EARLY, last_at=LATE, **FAILED),
        a_dead_letter(type="a", first_at=LATE, last_at=LATER, **FAILED),
        a_dead_letter(type="a", first_at=LATE, last_at=LATE),
        a_dead_letter(type=None, reason="malformed", first_at=EARLY, last_at=EARLY),
    )
    found = DeadLetters(SOURCE)

    async with engine.connect() as connection:
        snapshot = await found.snapshot(connection)
        everything = await found.groups(connection, Selection(), snapshot)
        one = await found.groups(connection, Selection(limit=1), snapshot)
        unknown = await found.unknown(connection, [first, 10**12])

    cause = ("a", "retries_exhausted", *FAILED.values())
    assert everything == [
        LetterGroup(*cause, 2, EARLY, LATER),
        LetterGroup(None, "malformed", None, None, 1, EARLY, EARLY),
        LetterGroup("a", "retries_exhausted", None, None, 1, LATE, LATE),
    ]
    assert one == [LetterGroup(*cause, 1, EARLY, LATE)]
    assert unknown == [10**12]


async def test_a_list_has_the_order_that_is_asked_for(engine):
    one, two, three = await write_dead_letter(
        engine,
        a_dead_letter(type="b", attempts=4),
        a_dead_letter(type="a", attempts=9, **FAILED),
        a_dead_letter(type="a", attempts=1),
    )
    found = DeadLetters(SOURCE)
    listed = {}

    async with engine.connect() as connection:
        where = Selection().where(SOURCE, await found.snapshot(connection))
        for order in Order:
            rows = await found.listed(connection, where=where, order=order, limit=3)
            listed[order] = [row["id"] for row in rows]
        (newest,) = await found.listed(connection, where=where, order=Order.NEWEST, limit=1)

    assert listed == {
        Order.OLDEST: [one, two, three],
        Order.NEWEST: [three, two, one],
        Order.ATTEMPTS: [two, one, three],
        Order.TYPE: [three, two, one],
    }
    assert newest["id"] == three
    assert "body" not in newest


def a_maintenance(engine: AsyncEngine, registry: CollectorRegistry) -> DeadLetterMaintenance:
    return DeadLetterMaintenance(
        engine,
        SOURCE,
        retention=timedelta(days=1),
        actor="relay host:1",
        report=DeadLetterReport(
            registry, source=SOURCE, codes={"malformed"}, other="rejected_by_handler"
        ),
        availability=Availability(logs.get("test"), CollectorRegistry()),
    )


async def test_a_process_purges_its_old_dead_letters_and_counts_the_others(engine):
    rows = [a_dead_letter(age_seconds=90_000) for _ in range(BATCH + 1)]
    old = await write_dead_letter(engine, *rows)
    kept = await write_dead_letter(
        engine,
        a_dead_letter(age_seconds=80_000, reason="malformed"),
        a_dead_letter(reason="no_unit"),
        a_dead_letter(age_seconds=90_000, source="another"),
    )
    registry = CollectorRegistry()

    await a_maintenance(engine, registry).work(asyncio.Event())

    assert [row["id"] for row in await remaining(engine)] == kept
    first, second = await audit_rows(engine)
    assert [(row["action"], row["messages"]) for row in (first, second)] == [
        ("purge", BATCH),
        ("purge", 1),
    ]
    assert (first["actor"], first["because"]) == ("relay host:1", "MQ_DEAD_LETTER_RETENTION_DAYS")
    assert first["selection"] == {"older_than_seconds": 86_400}
    labels = {"source": SOURCE}
    sample = registry.get_sample_value
    assert sample("mq_dead_letters_purged_total", labels) == len(old)
    assert sample("mq_dead_letters_waiting", {**labels, "reason": "malformed"}) == 1
    assert sample("mq_dead_letters_waiting", {**labels, "reason": "rejected_by_handler"}) == 1
    assert 79_999 < (sample("mq_dead_letters_oldest_age_seconds", labels) or 0) < 80_100


async def test_a_purge_leaves_what_a_replay_has_locked_and_a_reason_without_letters_has_no_metric(
    engine,
):
    (locked,) = await write_dead_letter(engine, a_dead_letter(age_seconds=90_000))
    maintenance = a_maintenance(engine, CollectorRegistry())
    if engine.dialect.name == "postgresql":
        found = DeadLetters(SOURCE)
        async with engine.connect() as connection:
            where = Selection().where(SOURCE, await found.snapshot(connection))
            await found.lock(connection, where=where, span=Span(0, 9), bodies=False)

            await maintenance.work(asyncio.Event())
            assert [row["id"] for row in await remaining(engine)] == [locked]

    await a_maintenance(engine, registry := CollectorRegistry()).work(asyncio.Event())
    assert await remaining(engine) == []
    reason = {"source": SOURCE, "reason": "rejected_by_handler"}
    assert registry.get_sample_value("mq_dead_letters_waiting", reason) is None
    assert registry.get_sample_value("mq_dead_letters_oldest_age_seconds", {"source": SOURCE}) == 0


def test_counts_replace_those_of_a_minute_ago():
    registry = CollectorRegistry()
    report = DeadLetterReport(registry, source=SOURCE, codes={"malformed"}, other="other")

    report.sampled([ReasonCount("malformed", 2, AN_HOUR), ReasonCount("x", 1, 2 * AN_HOUR)])
    report.sampled([ReasonCount("x", 1, AN_HOUR), ReasonCount("y", 1, AN_HOUR)])

    sample = registry.get_sample_value
    assert sample("mq_dead_letters_waiting", {"source": SOURCE, "reason": "other"}) == 2
    assert sample("mq_dead_letters_waiting", {"source": SOURCE, "reason": "malformed"}) is None
    assert sample("mq_dead_letters_oldest_age_seconds", {"source": SOURCE}) == 3600


async def test_a_listing_reads_the_body_only_on_request(engine):
    await write_dead_letter(engine, a_dead_letter(body=b"\x00\xff{}"))
    found = DeadLetters(SOURCE)

    async with engine.connect() as connection:
        where = Selection().where(SOURCE, await found.snapshot(connection))
        (without,) = await found.read(connection, where=where, span=Span(0, 9), bodies=False)
        (with_body,) = await found.read(connection, where=where, span=Span(0, 9), bodies=True)

    assert without["size_bytes"] == 4
    assert "body" not in without
    assert with_body["body"] == b"\x00\xff{}"


async def test_a_replayed_dead_letter_is_deleted_and_audited(engine):
    await write_dead_letter(
        engine, a_dead_letter(), a_dead_letter(), a_dead_letter(source="another")
    )
    run, destination = await a_run(engine, Selection(key=LEAK_MARKER, limit=7)), Recorder()
    everything = await a_run(engine)

    await run.replay(destination)
    await everything.replay(destination)

    assert [row["source"] for row in await remaining(engine)] == ["another"]
    assert (run.summary.done, everything.summary.done) == (0, 2)
    assert destination.runs == {everything.audit.run}
    assert await audited(engine) == [
        ("replay_started", 0),
        ("replay_started", 0),
        ("replay", 2),
    ]
    first, *_, last = await audit_rows(engine)
    assert (last["actor"], last["because"], last["source"]) == ("me", "fixed", SOURCE)
    assert (first["run"], first["selection"]) == (run.audit.run, {"key": True, "limit": 7})
    assert (last["run"], last["selection"]) == (everything.audit.run, {"all": True})


async def test_a_replay_is_audited_before_any_message_is_sent(engine):
    await write_dead_letter(engine, a_dead_letter())
    seen = []

    class Looking(Recorder):
        async def send(self, connection, kept, *, run):
            seen.extend(await audited(engine))
            return await super().send(connection, kept, run=run)

    await (await a_run(engine)).replay(Looking())

    assert seen == [("replay_started", 0)]


async def test_a_dead_letter_that_was_not_sent_stays_and_is_counted_by_its_outcome(engine):
    kept = [a_dead_letter() for _ in range(3)]
    await write_dead_letter(engine, *kept)
    run = await a_run(engine)

    await run.replay(Recorder(refused={kept[1]["message_id"]: "unroutable"}))

    (left,) = await remaining(engine)
    assert left["message_id"] == kept[1]["message_id"]
    assert (run.summary.done, run.summary.left) == (2, Counter(unroutable=1))
    assert not run.summary.is_clean
    assert await audited(engine) == [("replay_started", 0), ("replay", 2)]


async def test_a_replay_stops_if_a_message_gets_no_confirm(engine):
    ids = await write_dead_letters(engine, 250)
    run = await a_run(engine)

    await run.replay(Recorder(refused=dict.fromkeys(ids, "unknown")))

    assert run.summary.left == Counter(unknown=100)
    assert len(await remaining(engine)) == 250


async def test_a_replay_with_a_limit_takes_the_oldest_dead_letters(engine):
    kept = [a_dead_letter() for _ in range(3)]
    await write_dead_letter(engine, *kept)
    destination = Recorder()

    await (await a_run(engine, Selection(limit=2))).replay(destination)

    assert destination.ids == [letter["message_id"] for letter in kept[:2]]


async def test_a_replay_does_not_take_a_message_that_fails_again_during_it(engine):
    class FailingAgain(Recorder):
        async def send(self, connection, kept, *, run):
            for letter in kept:
                await connection.execute(
                    sa.insert(dead_letters).values(a_dead_letter(message_id=letter["message_id"]))
                )
            return await super().send(connection, kept, run=run)

    await write_dead_letters(engine, 150)
    run = await a_run(engine)

    await run.replay(FailingAgain())

    assert run.summary.done == 150
    assert len(await remaining(engine)) == 150


async def test_a_stopped_replay_has_sent_whole_batches_and_counts_them(engine):
    await write_dead_letters(engine, 250)
    stop = asyncio.Event()
    run = await a_run(engine, stop=stop, on_progress=lambda _letters: stop.set())

    await run.replay(Recorder())

    assert (run.summary.done, run.summary.interrupted) == (100, True)
    assert len(await remaining(engine)) == 150
    assert await audited(engine) == [("replay_started", 0), ("replay", 100)]


async def test_a_cancelled_batch_is_rolled_back(engine):
    await write_dead_letters(engine, 150)
    under_way = asyncio.Event()

    class Hanging(Recorder):
        async def send(self, connection, kept, *, run):
            if self.taken:
                under_way.set()
                await asyncio.Event().wait()
            return await super().send(connection, kept, run=run)

    run = await a_run(engine)
    task = asyncio.create_task(run.replay(Hanging()))
    await under_way.wait()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert run.summary.done == 100
    assert len(await remaining(engine)) == 50
    assert await audited(engine) == [("replay_started", 0), ("replay", 100)]


async def repaired(_letter: Any) -> dict[str, Any]:
    return {"body": b"{}", "content_encoding": None}


async def test_a_repaired_dead_letter_is_sent_with_its_new_body(engine):
    (id_,) = await write_dead_letter(
        engine, a_dead_letter(body=b"broken", content_encoding="gzip")
    )
    destination = Recorder()

    await (await a_run(engine, Selection(ids=(id_,)))).replay(destination, repair=repaired)

    (sent,) = destination.taken
    assert (sent["body"], sent["content_encoding"]) == (b"{}", None)
    assert await audited(engine) == [("replay_started", 0), ("repair", 1), ("replay", 1)]


async def test_a_repaired_dead_letter_that_was_not_sent_keeps_its_new_body(engine):
    (id_,) = await write_dead_letter(
        engine, letter := a_dead_letter(body=b"broken", content_encoding="gzip")
    )
    destination = Recorder(refused={letter["message_id"]: "unroutable"})

    await (await a_run(engine, Selection(ids=(id_,)))).replay(destination, repair=repaired)

    (left,) = await remaining(engine)
    assert (left["body"], left["content_encoding"]) == (b"{}", None)
    assert await audited(engine) == [("replay_started", 0), ("repair", 1)]


async def test_dropped_dead_letters_are_deleted_and_counted_in_the_audit(engine):
    await write_dead_letter(engine, a_dead_letter(source="another"))
    await write_dead_letters(engine, 150)
    run = await a_run(engine)

    await run.drop()

    assert [row["source"] for row in await remaining(engine)] == ["another"]
    assert run.summary.done == 150
    assert await audited(engine) == [("drop", 100), ("drop", 50)]


async def test_a_run_vouches_for_its_copies_while_dedup_rows_are_as_old(engine):
    """Later, a copy that was handled once could be handled again."""
    known = {"at": now_plus(-7_200), "run": uuid4(), "actor": "a", "action": "replay_started"}
    row = known | {"source": "etl", "because": "a test", "messages": 0}
    async with engine.begin() as connection:
        if engine.dialect.name == "postgresql":  # otherwise Postgres assigns the time itself
            await connection.execute(sa.text("ALTER TABLE audit_log DISABLE TRIGGER ALL"))
        await connection.execute(sa.insert(audit_log).values(row))
        # A run goes on, and its first copies are as old as its beginning.
        await connection.execute(sa.insert(audit_log).values(row | {"at": now_plus(0)}))

    async with async_sessionmaker(engine)() as session:
        answers = [
            await is_known(session, run, within=timedelta(hours=hours))
            for run, hours in ((known["run"], 3), (known["run"], 1), (uuid4(), 3))
        ]
    assert answers == [True, False, False]


async def test_the_audit_cannot_be_rewritten(engine):
    await write_dead_letter(engine, a_dead_letter())
    await (await a_run(engine)).drop()

    for statement in ("DELETE FROM audit_log", "UPDATE audit_log SET actor = 'nobody'"):
        with pytest.raises(DBAPIError, match="rows are only added"):
            async with engine.begin() as connection:
                await connection.execute(sa.text(statement))


async def complete(engine: AsyncEngine, letter: dict) -> bool:
    """Handle the message of *letter*; returns whether it took effect."""
    envelope = codec.from_wire(stored_message.from_columns(letter))
    async with async_sessionmaker(engine).begin() as session:
        entries = {envelope.idempotency_key: (envelope, 1)}
        return bool(await Dedup(SOURCE).record_completed(session, entries))


async def test_completed_messages_are_counted_and_stay_completed(engine):
    await write_dead_letter(
        engine,
        done := a_dead_letter(),
        a_dead_letter(),
        a_dead_letter(headers={}, message_id=None),
    )
    await complete(engine, done)
    run = await a_run(engine)

    await run.replay(Recorder(), duplicates=CompletedMessages(SOURCE))

    assert (run.summary.done, run.summary.duplicates) == (3, 1)
    assert not await complete(engine, done)


async def test_a_rerun_deletes_the_dedup_rows_and_is_audited(engine):
    done, other = a_dead_letter(), a_dead_letter(headers={})
    await write_dead_letter(engine, done, other, a_dead_letter())
    await complete(engine, done)
    await complete(engine, other)
    run = await a_run(engine, Selection(ids=(1, 3)))

    await run.replay(Recorder(), duplicates=CompletedMessages(SOURCE), reprocess=True)

    assert (run.summary.done, run.summary.duplicates) == (2, 0)
    assert await audited(engine) == [("replay_started", 0), ("rerun", 1), ("replay", 2)]
    assert await complete(engine, done)
    assert not await complete(engine, other)


async def test_a_rerun_that_was_not_sent_keeps_the_dedup_rows(engine):
    await write_dead_letter(engine, done := a_dead_letter())
    await complete(engine, done)
    run = await a_run(engine)

    refusing = Recorder(refused={done["message_id"]: "unroutable"})
    await run.replay(refusing, duplicates=CompletedMessages(SOURCE), reprocess=True)

    assert not await complete(engine, done)


async def test_a_consumer_that_is_faster_than_the_rerun_waits_for_it(engine):
    await write_dead_letter(engine, done := a_dead_letter())
    await complete(engine, done)
    early = []

    class Fast(Recorder):
        async def send(self, connection, kept, *, run):
            early.append(asyncio.create_task(complete(engine, done)))
            await asyncio.wait(early, timeout=0.2)
            assert not early[0].done()
            return await super().send(connection, kept, run=run)

    await (await a_run(engine)).replay(
        Fast(), duplicates=CompletedMessages(SOURCE), reprocess=True
    )

    assert await early[0]


async def test_a_rerun_leaves_messages_of_other_consumers_alone(engine):
    await write_dead_letter(engine, done := a_dead_letter())
    await complete(engine, done)
    run = await a_run(engine)

    await run.replay(Recorder(), duplicates=CompletedMessages("another"), reprocess=True)

    assert not await complete(engine, done)


async def events(engine: AsyncEngine) -> list[sa.RowMapping]:
    async with engine.connect() as connection:
        return list((await connection.execute(sa.select(outbox).order_by(outbox.c.id))).mappings())


async def test_a_dead_letter_of_the_relay_goes_back_to_the_outbox_unchanged(engine):
    letter = a_dead_letter_of_the_relay(
        headers={"source": "s"}, correlation_id="c", priority="high"
    )
    await write_dead_letter(engine, letter)

    await (await a_run(engine, source="relay")).replay(ToOutbox())

    (event,) = await events(engine)
    assert event["event_id"] == UUID(letter["message_id"])
    assert (event["attempts"], event["last_error"], event["not_before"]) == (0, None, None)
    for name in set(letter) - {"source", "reason", "attempts", "message_id"}:
        assert event[name] == letter[name], name
    assert row_codec.from_row(event).ordering_key == letter["ordering_key"]
    assert await remaining(engine) == []


async def test_an_event_that_is_already_in_the_outbox_is_skipped_and_reported(engine):
    letter, twin = a_dead_letter_of_the_relay(), a_dead_letter_of_the_relay()
    await write_dead_letter(engine, letter, twin, twin)
    waiting = an_event(id=UUID(letter["message_id"]))
    async with engine.begin() as connection:
        await connection.execute(sa.insert(outbox).values(row_codec.to_row(waiting)))
    run = await a_run(engine, source="relay")

    await run.replay(ToOutbox())

    assert {str(event["event_id"]) for event in await events(engine)} == {
        letter["message_id"],
        twin["message_id"],
    }
    assert len(await events(engine)) == 2
    assert (run.summary.done, run.summary.left) == (1, Counter({ALREADY_IN_OUTBOX: 2}))
    left = [row["message_id"] for row in await remaining(engine)]
    assert left == [letter["message_id"], twin["message_id"]]


async def test_dead_letters_that_are_no_valid_events_are_skipped_and_reported(engine):
    odd: list[dict[str, Any]] = [
        {"message_id": None},
        {"message_id": "17"},
        {"type": None},
        {"routing_key": None},
        {"idempotency_key": None},
        {"priority": None},
        {"content_type": None},
        {"occurred_at": None},
        {"headers": ["no object"]},
        {"headers": "{}"},
        {"headers": {"not-allowed": "x"}},
    ]
    letters = (a_dead_letter_of_the_relay(**changes) for changes in odd)
    await write_dead_letter(engine, *letters, a_dead_letter_of_the_relay())
    run = await a_run(engine, source="relay")

    await run.replay(ToOutbox())

    assert (run.summary.done, run.summary.left) == (1, Counter(malformed=len(odd)))
    assert len(await events(engine)) == 1
    assert len(await remaining(engine)) == len(odd)


async def test_two_concurrent_replays_insert_each_event_once(engine):
    await write_dead_letter(engine, *(a_dead_letter_of_the_relay() for _ in range(250)))
    runs = [await a_run(engine, source="relay") for _ in range(2)]

    await asyncio.gather(*(run.replay(ToOutbox()) for run in runs))

    assert len(await events(engine)) == 250
    assert sum(run.summary.done for run in runs) == 250
    assert await remaining(engine) == []
