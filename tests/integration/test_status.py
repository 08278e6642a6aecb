"""
The output of `relay status` and `consumer status`, for people and for programs.
"""

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

import outbox
from consumer.storage import stored_message
from consumer.storage.dedup import Dedup
from consumer.storage.durations import record_durations
from consumer.storage.failing import FailedAttempt, FailingMessages
from consumer.storage.parked import ParkedMessages
from consumer.storage.tables import processed_messages
from outbox.database.engine import create_engine
from outbox.database_time import now_plus
from outbox.runtime.error_summary import ErrorSummary
from outbox.tables import outbox as table
from outbox.transports.base import Outcome
from outbox.wire import row_codec
from outbox.wire.envelope import Envelope
from tests.support.builders import LEAK_MARKER, an_event, on_the_wire
from tests.support.commands import CommandLine
from tests.support.consumer_deployment import broker
from tests.support.dead_letters import a_dead_letter, a_dead_letter_of_the_relay, write_dead_letter
from tests.support.eventually import eventually
from tests.support.pages import REPOSITORY

TARGET = "tests.support.effects:consumer"
HOUR = timedelta(hours=1)


@pytest.fixture
def run(tmp_path, database_url):
    """Run a command on the test's database and a broker's file; return what it printed."""

    command_line = CommandLine(tmp_path, COLUMNS="20", MQ_DATABASE_URL=database_url)

    def run(*command: str) -> str:
        ended = command_line(*command)
        assert ended.code == 0, ended.err
        assert LEAK_MARKER not in ended.out
        return ended.out

    return run


async def complete(
    engine: AsyncEngine, event_type: str, *, took: float, hours_ago: float = 0
) -> Envelope:
    row = {
        **row_codec.to_row(an_event(type=event_type)),
        "exchange": None,
        "content_encoding": None,
    }
    envelope, dedup = row_codec.from_row(row), Dedup("effects")
    async with async_sessionmaker(engine).begin() as session:
        key = envelope.idempotency_key
        await dedup.record_completed(session, {key: (envelope, 1)})
        durations = {key: timedelta(seconds=took)}
        await record_durations(await session.connection(), "effects", durations)
        await session.execute(
            sa.update(processed_messages)
            .where(processed_messages.c.idempotency_key == key)
            .values(processed_at=now_plus(sa.literal(-hours_ago * 3_600)))
        )
    return envelope


async def park(engine: AsyncEngine) -> None:
    message = stored_message.from_columns({**a_dead_letter(), "id": 1})
    async with async_sessionmaker(engine).begin() as session:
        await ParkedMessages("effects").park(
            session, message, lane="a" * 32, attempts=1, wait=HOUR
        )


async def fail(engine: AsyncEngine, messages: int) -> None:
    error = ErrorSummary("KeyError", "myapp/etl.py:42 in load")
    failed = [
        FailedAttempt(
            on_the_wire(an_event(idempotency_key=f"{LEAK_MARKER}{n}"), exchange="x"),
            2,
            HOUR,
            error,
        )
        for n in range(messages)
    ]
    await FailingMessages("effects").record_at_once(engine, failed)


PUBLIC_API = (REPOSITORY / "docs" / "reference" / "public-api.md").read_text()
PLACEHOLDERS = {"by_status": "STATUS", "last_24_hours": "TYPE"}


def documented_keys(command: str) -> set[str]:
    """The keys that the page lists for *command*."""
    section = PUBLIC_API.partition(f"### `{command} --json`")[2].partition("\n#")[0]
    return set(re.findall(r"^\| `([\w.\[\]]+)` \|", section, re.MULTILINE))


def keys(value: Any, path: str = "") -> set[str]:
    """The keys of *value* as the page writes them."""
    if isinstance(value, list):
        return {key for each in value for key in keys(each, f"{path}[]")}
    if not isinstance(value, dict):
        return {path}
    return {
        key
        for name, each in value.items()
        for key in keys(each, f"{path}.{PLACEHOLDERS.get(path, name)}".lstrip("."))
    }


async def test_the_status_of_a_consumer_is_complete_as_json(run, engine):
    run("consumer", "topology", TARGET)
    await complete(engine, "test.happened", took=1)
    await complete(engine, "test.happened", took=2)
    await complete(engine, "test.leads.on", took=7, hours_ago=48)
    await write_dead_letter(
        engine,
        a_dead_letter(reason="no_handler", age_seconds=7_200),
        a_dead_letter(reason="no_handler"),
        a_dead_letter(reason="malformed"),
        a_dead_letter(source="audit"),
    )
    await park(engine)
    await fail(engine, 3)

    status: dict[str, Any] = json.loads(run("consumer", "status", TARGET, "--json"))

    assert keys(status) == documented_keys("consumer status")
    assert (status["consumer"], status["processed"]) == ("effects", 3)
    [failing] = status["failing"]
    assert (
        failing["type"],
        failing["error_class"],
        failing["error_place"],
        failing["messages"],
    ) == (
        *("test.happened", "KeyError", "myapp/etl.py:42 in load"),
        3,
    )
    assert 0 < failing["next_due_seconds"] <= 3_600
    assert failing["last_failure_seconds"] <= failing["first_failure_seconds"] < 60
    assert status["by_status"] == {"completed": 3}
    assert status["last_24_hours"] == {
        "test.happened": {"completed": 2, "mean_duration_seconds": 1.5}
    }
    queue = "health_data_processing.effects"
    names = [queue, *(f"{queue}.retry.{delay}" for delay in ("30s", "300s", "900s"))]
    assert status["queues"] == [
        {"queue": name, "messages": 0, "consumers": 0, "held": 0}
        for name in (*names, f"{queue}.dead")
    ]
    malformed, no_handler = status["dead_letters"]
    assert (malformed["reason"], malformed["letters"]) == ("malformed", 1)
    assert (no_handler["reason"], no_handler["letters"]) == ("no_handler", 2)
    assert 7_200 <= no_handler["oldest_seconds"] < 7_300
    assert status["parked"]["messages"] == 1
    assert 48 * 3_600 <= status["dedup"]["oldest_seconds"] < 49 * 3_600
    assert status["dedup"]["retention_seconds"] == 720 * 3_600
    assert 168 * 3_600 < status["dedup"]["horizon_seconds"] < 169 * 3_600


async def test_the_status_of_a_consumer_is_a_few_tables_for_people(run, engine):
    await complete(engine, "test.happened", took=1.25)
    await write_dead_letter(engine, a_dead_letter(reason="no_handler", age_seconds=7_200))

    printed = run("consumer", "status", TARGET)

    lines = [" ".join(line.replace("│", " ").split()) for line in printed.splitlines()]
    assert "in all 1" in lines
    assert "completed 1" in lines
    assert "test.happened 1 1.250" in lines
    assert "health_data_processing.effects.dead missing -" in lines
    assert "no_handler 1 2h" in lines
    assert "kept for 30 days, 0:00:00" in lines
    assert "parked" not in lines


async def test_the_status_of_the_relay_shows_its_dead_letters(run, engine):
    assert "no dead letters" in run("relay", "status")
    await write_dead_letter(engine, a_dead_letter_of_the_relay(reason="rejected"), a_dead_letter())

    assert "rejected" in run("relay", "status")
    async with engine.begin() as connection:
        await connection.execute(outbox.insert(an_event()))
    status = json.loads(run("relay", "status", "--json"))

    assert keys(status) == documented_keys("relay status")
    [pile] = status["dead_letters"]
    assert (pile["reason"], pile["letters"]) == ("rejected", 1)
    assert 0 <= pile["oldest_seconds"] < 60
    assert status["outbox"]["rows"] == 1
    assert 0 <= status["outbox"]["oldest_ready_age_seconds"] < 60


async def events_of_many_kinds(url: str) -> None:
    """One that no queue gets, one behind it, one that a queue refused, one for later."""
    later = datetime.now(UTC) + HOUR
    engine = create_engine(make_url(url), pool_size=2, application_name="test")
    async with engine.begin() as connection:
        for event in (
            an_event(type="payment.made", ordering_key=LEAK_MARKER),
            an_event(type="account.closed", ordering_key=LEAK_MARKER),
            an_event(type="steps.walked", routing_key="health.processing.steps.normal"),
            an_event(type="reminder.due", not_before=later),
        ):
            await connection.execute(outbox.insert(event))
        for name, code in {"payment.made": "unroutable", "steps.walked": "refused"}.items():
            await connection.execute(
                sa.update(table)
                .where(table.c.type == name)
                .values(last_error=code, attempts=4, not_before=later)
            )
        await connection.execute(
            sa.update(table).where(table.c.type == "reminder.due").values(exchange="reminders")
        )
    await engine.dispose()


async def test_the_status_of_the_relay_says_why_each_event_has_not_left(tmp_path, request, urls):
    database, broker_url = urls
    run = CommandLine(tmp_path, MQ_DATABASE_URL=database, MQ_BROKER_URL=broker_url)
    if broker_url.startswith("amqp"):
        server = request.getfixturevalue("rabbitmq_server")
        run.settings["MQ_MANAGEMENT_URL"] = server.management_url
    assert (await run.run("consumer", "topology", TARGET)).code == 0
    await events_of_many_kinds(database)

    printed = await run.run("relay", "status")
    as_json = await run.run("relay", "status", "--json")

    events = json.loads(as_json.out)["outbox"]["events"]
    assert {
        (each["state"], each["type"], each["reason"], each["attempts"]): [
            (route["exchange"], route["routing_key"], route["binding"]) for route in each["routes"]
        ]
        for each in events
    } == {
        ("unroutable", "payment.made", "unroutable", 4): [
            ("health_data_exchange", "payment.made", "no_queue")
        ],
        ("blocked", "account.closed", "unroutable", 0): [
            ("health_data_exchange", "account.closed", "no_queue")
        ],
        ("refused", "steps.walked", "refused", 4): [
            ("health_data_exchange", "health.processing.steps.normal", "bound")
        ],
        ("waiting", "reminder.due", None, 0): [("reminders", "reminder.due", "no_exchange")],
    }
    assert json.loads(as_json.out)["bindings_unknown"] is None
    assert (printed.code, as_json.code) == (0, 0)
    for cause in (
        "unroutable: no queue is bound to payment.made on exchange health_data_exchange: bind one",
        "blocked: an earlier event of the same ordering key has failed (unroutable)",
        "refused: a queue that health.processing.steps.normal leads to on exchange",
        (
            "waiting: exchange reminders does not exist: name it in MQ_EXCHANGES, so that"
            " relays and consumers declare it, and bind a queue"
        ),
    ):
        assert cause in printed.out
    assert LEAK_MARKER not in printed.out + as_json.out


async def test_the_status_of_the_relay_needs_no_broker(tmp_path, sqlite_url):
    """Without the management API, or while it is unreachable, it says so."""
    run = CommandLine(
        tmp_path, MQ_DATABASE_URL=sqlite_url, MQ_BROKER_URL="amqp://u:p@127.0.0.1:1/"
    )
    await events_of_many_kinds(sqlite_url)

    not_asked = await run.run("relay", "status")
    unreachable = await run.run(
        "relay", "status", "--json", MQ_MANAGEMENT_URL="http://u:p@127.0.0.1:1"
    )

    assert (not_asked.code, unreachable.code) == (0, 0)
    assert "binding unknown: set MQ_MANAGEMENT_URL" in not_asked.out
    assert "unroutable: no queue was bound to payment.made on exchange" in not_asked.out
    status = json.loads(unreachable.out)
    assert "MQ_MANAGEMENT_URL: cannot connect to 127.0.0.1:1" in status["bindings_unknown"]
    assert {
        route["binding"] for each in status["outbox"]["events"] for route in each["routes"]
    } == {"unknown"}


@pytest.mark.parametrize("broker_fixture", ["embedded_broker_url", "rabbitmq_url"])
@pytest.mark.parametrize("is_asked", [True, False])
def test_messages_wait_visibly_in_the_retry_queue_of_a_former_delay(
    request, tmp_path, sqlite_url, broker_fixture, is_asked
):
    """Without the management API those of the default delays are found."""
    url = request.getfixturevalue(broker_fixture)
    asked = {}
    if is_asked and broker_fixture == "rabbitmq_url":
        server = request.getfixturevalue("rabbitmq_server")
        asked = {"MQ_MANAGEMENT_URL": server.management_url}
    run = CommandLine(tmp_path, MQ_DATABASE_URL=sqlite_url, MQ_BROKER_URL=url, **asked)
    assert run("consumer", "topology", TARGET, MQ_RETRY_DELAYS="300").code == 0
    assert run("consumer", "topology", TARGET, MQ_RETRY_DELAYS="60").code == 0

    ended = run("consumer", "status", TARGET, "--json", MQ_RETRY_DELAYS="60")

    queue = "health_data_processing.effects"
    names = [state["queue"] for state in json.loads(ended.out)["queues"]]
    assert names == [queue, f"{queue}.retry.60s", f"{queue}.dead", f"{queue}.retry.300s"]


async def test_the_status_shows_what_is_held_while_the_dead_queue_is_missing(
    tmp_path, sqlite_url, rabbitmq_server, rabbitmq_vhost
):
    url, queue = rabbitmq_server.url(rabbitmq_vhost), "health_data_processing.effects"
    run = CommandLine(
        tmp_path,
        MQ_DATABASE_URL=sqlite_url,
        MQ_BROKER_URL=url,
        MQ_MANAGEMENT_URL=rabbitmq_server.management_url,
        MQ_MESSAGE_TTL_SECONDS="0.1",
        MQ_RETRY_DELAYS="0.05",
    )
    assert (await run.run("consumer", "topology", TARGET)).code == 0
    await rabbitmq_server.http.request("DELETE", "queues", rabbitmq_vhost, f"{queue}.dead")
    message = on_the_wire(an_event(), exchange="health_data_exchange")
    async with broker(url).publisher() as publisher:
        assert await publisher.publish([message], within=timedelta(seconds=5)) == [Outcome.ACKED]

    async def is_held() -> bool:
        ended = await run.run("consumer", "status", TARGET, "--json")
        states = {each["queue"]: each for each in json.loads(ended.out)["queues"]}
        assert states[f"{queue}.dead"]["messages"] is None
        return bool(states[queue]["held"] == 1)

    await eventually(is_held, within=20)
    shown = await run.run("consumer", "status", TARGET)
    assert "held, since no other queue takes them" in shown.out
    checked = await run.run("consumer", "check", TARGET)
    assert checked.code == 2
    assert f"queue {queue}.dead does not exist" in checked.err


async def test_failing_messages_are_grouped_and_listed_for_people_and_for_programs(run, engine):
    """Without a broker: it may be unavailable, and the rows are in the database."""
    assert "waiting for the next attempt" in run("consumer", "failing", TARGET)
    await fail(engine, 3)

    listed = json.loads(run("consumer", "failing", TARGET, "--limit", "2", "--json"))
    shown = run("consumer", "failing", TARGET)
    status = run("consumer", "status", TARGET)

    assert keys(listed[0]) == documented_keys("consumer failing")
    assert [(each["attempts"], each["error_class"]) for each in listed] == [(2, "KeyError")] * 2
    assert all(each["message_id"] in shown for each in listed)
    for output in (shown, status):
        assert "myapp/etl.py:42 in load" in output
        assert "59m" in output


async def test_a_locked_table_is_named_as_the_reason_why_there_is_no_status(
    postgres_url, tmp_path
):
    """As during VACUUM FULL: the commands once waited for as long as the lock was held."""
    look = CommandLine(tmp_path, MQ_DATABASE_URL=postgres_url)
    engine = create_engine(make_url(postgres_url), pool_size=1, application_name="test")
    async with engine.begin() as connection:
        await connection.execute(sa.text("LOCK TABLE dead_letters IN ACCESS EXCLUSIVE MODE"))

        status, monitor = await asyncio.gather(
            look.run("relay", "status"), look.run("relay", "monitor", "--once")
        )

    await engine.dispose()
    for ended in (status, monitor):
        assert ended.code == 3, ended
        assert "another transaction holds a lock" in ended.err
