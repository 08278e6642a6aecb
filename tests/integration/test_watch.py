"""
The command `consumer watch`, beside a relay and a consumer that go on with their work.
"""

import json
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from outbox import insert
from outbox.encryption import sources
from outbox.encryption.encryptor import Encryptor
from outbox.runtime.service import ExitCode
from outbox.tables import outbox
from outbox.transports.base import QueueDepth
from outbox.transports.connect import transport
from outbox.wire import codec, row_codec
from relay.settings import RelaySettings
from tests.support.builders import LEAK_MARKER, an_event
from tests.support.commands import CommandLine
from tests.support.dead_letters import audit_rows, audited
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.keys import key_store
from tests.support.processes import ChildProcess, PreparedProcess
from tests.support.roles import documented_rights, role

TARGET = "tests.support.effects:consumer"
EXCHANGE, QUEUE = "health_data_exchange", "health_data_processing.effects"
BECAUSE = ("--because", "ticket 17")
BODY = json.dumps({"note": LEAK_MARKER})


class Watched:
    """A deployment, and observers of its broker."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self._started = 0

    async def watching(self, *arguments: str) -> ChildProcess:
        """Start `consumer watch`, and return when it observes."""
        self._started += 1
        child = PreparedProcess(
            [sys.executable, "-m", "consumer", "watch", *arguments],
            log=self.deployment.directory / f"watch-{self._started}.log",
            env=self.deployment.settings,
        )
        child.start()
        await child.wait_for_line("watching")
        return child

    async def record(self, *types: str, **changes: Any) -> None:
        """Record an event of each type."""
        events = [an_event(type=each, payload={"note": LEAK_MARKER}, **changes) for each in types]
        async with self.deployment.engine.begin() as connection:
            await connection.execute(insert(*events))


@pytest.fixture(params=["sqlite", "servers"])
def urls(request, tmp_path) -> tuple[str, str]:
    """A database and a broker; the tracer of RabbitMQ is on."""
    if request.param == "sqlite":
        return request.getfixturevalue("sqlite_url"), f"sqlite:///{tmp_path / 'broker.db'}"
    return request.getfixturevalue("postgres_url"), request.getfixturevalue("traced_url")


@pytest.fixture
async def watched(urls, tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    async with Deployment(*urls, logs) as deployment:
        assert await deployment.command("consumer", "topology", TARGET) == 0
        yield Watched(deployment)


@pytest.fixture
async def traced_url(rabbitmq_server, rabbitmq_vhost, rabbitmq_url) -> str:
    await rabbitmq_server.http.request("PUT", "vhosts", rabbitmq_vhost, body={"tracing": True})
    return rabbitmq_url


def objects(child: ChildProcess) -> list[dict[str, Any]]:
    """The JSON objects that *child* has printed."""
    lines = [line for line in child.output.splitlines() if line.startswith("{")]
    return [json.loads(line) for line in lines]


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


async def test_a_second_person_approves_that_bodies_are_watched(postgres_url, tmp_path):
    logs, file = tmp_path / "logs", f"sqlite:///{tmp_path / 'broker.db'}"
    logs.mkdir()
    async with (
        Deployment(postgres_url, file, logs, MQ_TWO_PERSON="true") as deployment,
        role(postgres_url, *documented_rights("operator")) as (_, second_url),
    ):
        assert await deployment.command("consumer", "topology", TARGET) == 0
        watch = ("consumer", "watch", "test.#", "--seconds", "0.1", "--body", *BECAUSE)
        approve = ("consumer", "approve", TARGET, "1", *BECAUSE)
        second = CommandLine(tmp_path, **deployment.settings | {"MQ_DATABASE_URL": second_url})

        asked = await deployment.run(*watch)
        assert (asked.code, asked.out) == (ExitCode.APPROVAL_NEEDED, "")
        assert "consumer approve MODULE:NAME 1 --because TEXT" in asked.err
        own = await deployment.run(*approve)
        assert (own.code, "another person has to approve it" in own.err) == (2, True)
        given = await second.run(*approve)
        assert (given.code, "watch_bodies of broker" in given.out) == (0, True)

        other = await deployment.run(*watch, "--exchange", "", "--approval", "1")
        assert (other.code, "another act, source or selection" in other.err) == (2, True)
        assert (await deployment.run(*watch, "--approval", "1")).code == 0
        again = await deployment.run(*watch, "--approval", "1")
        assert (again.code, "1 was used" in again.err) == (2, True)
        metadata = await deployment.run("consumer", "watch", "--seconds", "0.1")
        assert metadata.code == 0


async def test_an_encrypted_body_stays_closed_unless_it_is_decrypted(sqlite_url, tmp_path):
    logs, url = tmp_path / "logs", f"sqlite:///{tmp_path / 'broker.db'}"
    logs.mkdir()
    async with (
        key_store(f"sqlite:///{tmp_path / 'keys.db'}") as store,
        Deployment(sqlite_url, url, logs, MQ_ENCRYPTION_KEYS=store.url) as deployment,
    ):
        assert await deployment.command("consumer", "topology", TARGET) == 0
        watched = Watched(deployment)
        options = ("--json", "--limit", "1", *BECAUSE)
        closed = await watched.watching("--body", *options)
        opened = await watched.watching("--decrypt", *options)

        await publish_encrypted(deployment, store)

        assert (await closed.wait(), await opened.wait()) == (0, 0)
        assert LEAK_MARKER not in closed.output
        assert "body_base64" in objects(closed)[0]
        assert json.loads(objects(opened)[0]["body"]) == json.loads(BODY)
        deployment.unset("MQ_ENCRYPTION_KEYS")
        without = await deployment.run("consumer", "watch", "--decrypt", *BECAUSE)
        assert (without.code, "--decrypt: needs MQ_ENCRYPTION_KEYS" in without.err) == (2, True)


async def publish_encrypted(deployment: Deployment, store: Any) -> None:
    subjects = sources.both(store.url, None)[1]
    event = an_event(payload={"note": LEAK_MARKER})
    row = Encryptor(store.ring, subjects=subjects).encrypted(
        row_codec.to_row(event), subject=None, compression="none"
    )
    message = codec.to_wire(row_codec.from_row(row | {"exchange": None}), exchange=EXCHANGE)
    settings = RelaySettings(broker_url=deployment.settings["MQ_BROKER_URL"])
    async with transport(settings, name="test").publisher() as publisher:
        await publisher.ready()
        await publisher.publish([message], within=timedelta(seconds=10))


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
