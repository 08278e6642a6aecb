"""
The command `consumer watch`, beside a relay and a consumer that go on with their work.
"""

import json
import signal
from pathlib import Path

import pytest
from yarl import URL

from outbox.tables import outbox
from outbox.transports.base import QueueDepth
from outbox.transports.connect import transport
from relay.settings import RelaySettings
from tests.support.builders import LEAK_MARKER
from tests.support.dead_letters import audit_rows, audited
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.watching import Watched, objects

TARGET = "tests.support.effects:consumer"
EXCHANGE, QUEUE = "health_data_exchange", "health_data_processing.effects"
BECAUSE = ("--because", "ticket 17")
BODY = json.dumps({"note": LEAK_MARKER})


@pytest.fixture(params=["sqlite", "servers"])
def urls(request, tmp_path) -> tuple[str, str]:
    """A database and a broker; the tracer of RabbitMQ is on."""
    if request.param == "sqlite":
        return request.getfixturevalue("sqlite_url"), f"sqlite:///{tmp_path / 'broker.db'}"
    return request.getfixturevalue("postgres_url"), request.getfixturevalue("traced_rabbitmq_url")


@pytest.fixture
async def watched(urls, tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    async with Deployment(*urls, logs) as deployment:
        assert await deployment.command("consumer", "topology", TARGET) == 0
        yield Watched(deployment)


async def test_copies_are_shown_without_bodies_and_the_consumer_gets_every_event(watched):
    await watched.deployment.relay()
    await watched.deployment.consumer()
    child = await watched.watching("test.#", "--json", "--limit", "2")

    await watched.record("test.happened", "test.happened", correlation_id="upload-7")

    assert await child.wait() == 0
    assert LEAK_MARKER not in child.output
    first, second = objects(child)
    expected = {
        "type": "test.happened",
        "exchange": EXCHANGE,
        "routing_key": "test.happened",
        "correlation_id": "upload-7",
        "priority": 4,
        "failed_attempts": 0,
        "queues": [QUEUE],
    }
    assert first | expected == first
    assert first["size_bytes"] == len(json.dumps({"note": LEAK_MARKER}, separators=(",", ":")))

    await watched.deployment.applies(2)
    applied = [str(id_) for id_ in await watched.deployment.applied()]
    assert sorted(applied) == sorted([first["message_id"], second["message_id"]])


async def test_an_event_that_only_an_observer_sees_stays_in_the_outbox(watched):
    """The trap: a queue of the observer would be one that has the message."""
    await watched.deployment.relay()
    child = await watched.watching("#", "--limit", "1")

    await watched.record("payment.made")

    assert await child.wait() == 0
    assert "unroutable" in child.output

    async def is_returned() -> bool:
        rows = await watched.deployment.rows(outbox)
        return [row["last_error"] for row in rows] == ["unroutable"]

    await eventually(is_returned, message="the event is not in the outbox as unroutable")


async def test_a_signal_ends_it_cleanly_and_a_frozen_or_killed_one_holds_up_no_publisher(watched):
    for by in (signal.SIGINT, signal.SIGTERM):
        child = await watched.watching()
        assert await child.terminate(by=by) == 0

    child = await watched.watching("--body", *BECAUSE)
    await watched.deployment.relay()
    child.freeze()
    await watched.record("test.happened")
    await eventually(lambda: is_at_rest(watched, 1), message="the event was not published")
    child.kill()

    await watched.record("test.happened")
    await eventually(lambda: is_at_rest(watched, 2), message="the next was not published")


async def is_at_rest(watched: Watched, messages: int) -> bool:
    settings = RelaySettings(broker_url=watched.deployment.settings["MQ_BROKER_URL"])
    depth = await transport(settings, name="test").depth(QUEUE)
    return depth == QueueDepth(messages, 0)


async def test_bodies_need_a_reason_and_are_recorded_before_they_are_shown(watched):
    refused = await watched.deployment.run("consumer", "watch", "--body")
    assert (refused.code, "--because: is needed to see bodies" in refused.err) == (2, True)
    await watched.deployment.relay()
    options = ("test.#", "--body", *BECAUSE, "--by", "anna", "--limit", "1")
    as_lines, as_json = [await watched.watching(*options, *more) for more in ((), ("--json",))]

    await watched.record("test.happened", ordering_key="key-7", idempotency_key="once-7")

    assert (await as_lines.wait(), await as_json.wait()) == (0, 0)
    assert f'body {{"note":"{LEAK_MARKER}"}}' in as_lines.output
    [shown] = objects(as_json)
    assert (json.loads(shown["body"]), shown["idempotency_key"]) == (json.loads(BODY), "once-7")
    assert await audited(watched.deployment.engine) == [("watch_bodies", 1)] * 2
    [row, _] = await audit_rows(watched.deployment.engine)
    assert (row["actor"], row["because"], row["source"]) == ("anna", "ticket 17", "broker")
    assert row["selection"] == {"exchange": EXCHANGE, "patterns": ["test.#"]}


async def test_it_ends_in_time_and_a_retry_is_seen_on_the_default_exchange(watched):
    await watched.deployment.relay()
    await watched.deployment.consumer()
    quiet = await watched.watching("nothing.#", "--seconds", "1")
    child = await watched.watching("#", "--exchange", "", "--json", "--limit", "1")

    await watched.record("test.fails.once")

    assert await child.wait() == 0
    [copy] = objects(child)
    assert copy["routing_key"].startswith(f"{QUEUE}.retry.")
    assert (copy["exchange"], copy["failed_attempts"]) == ("", 1)
    assert await quiet.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("x" * 256,), "PATTERN: must be valid Unicode of at most 255 bytes"),
        (("--exchange", "ü" * 128), "--exchange: must be valid Unicode of at most 255 bytes"),
        (("--exchange", "missing"), "exchange missing does not exist"),
        (("--body", "--because", " "), "--because: is needed to see bodies"),
        (("--approval", "7", "--body", *BECAUSE), "--approval: is needed only while"),
        (("--decrypt", *BECAUSE), "--decrypt: needs MQ_ENCRYPTION_KEYS"),
    ],
)
async def test_a_wrong_argument_is_refused_with_exit_code_2(
    sqlite_url, tmp_path: Path, arguments, problem
):
    logs = tmp_path / "logs"
    logs.mkdir()
    async with Deployment(sqlite_url, f"sqlite:///{tmp_path / 'broker.db'}", logs) as deployment:
        ended = await deployment.run("consumer", "watch", *arguments)

    assert (ended.code, problem in ended.err) == (2, True), ended.err


async def test_a_broker_whose_tracer_is_off_is_refused_with_the_command(
    sqlite_url, rabbitmq_url, tmp_path
):
    logs = tmp_path / "logs"
    logs.mkdir()
    async with Deployment(sqlite_url, rabbitmq_url, logs) as deployment:
        assert await deployment.command("relay", "topology") == 0
        ended = await deployment.run("consumer", "watch")

    assert (ended.code, "rabbitmqctl trace_on -p VHOST" in ended.err) == (2, True), ended.err
    assert str(URL(rabbitmq_url).password) not in ended.err
