"""
`relay monitor` on running relays, consumers and brokers.
"""

import asyncio
import json
import os
import pty
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import outbox
from consumer.queues import ConsumerQueues
from outbox.database_time import now_plus
from outbox.tables import dead_letters, outbox_processes
from outbox.transports.base import Outcome
from tests.support.builders import LEAK_MARKER, an_event, on_the_wire
from tests.support.commands import CommandLine
from tests.support.consumer_deployment import EXCHANGE, SOON, broker
from tests.support.dead_letters import a_dead_letter, write_dead_letter
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.processes import REPOSITORY
from tests.support.roles import execute, role

DLX = "health_data_dlx"
QUEUE = "health_data_processing.effects"
FORMER = ConsumerQueues(QUEUE, bindings=[], delays=[timedelta(minutes=77)])
ROOM = {"MQ_MONITOR_DISK_FREE_BYTES": "0"}


class Monitored(Deployment):
    """A deployment that `relay monitor` looks at."""

    async def once(self, *, code: int) -> dict[str, Any]:
        """The document of one reading, after which the command has exited with *code*."""
        ended = await self.run("relay", "monitor", "--once", "--json")
        assert ended.code == code, ended
        assert LEAK_MARKER not in ended.out + ended.err
        document: dict[str, Any] = json.loads(ended.out)
        return document

    async def forget(self, role: str) -> None:
        """Let processes of *role* have been gone for a minute."""
        async with self.engine.begin() as connection:
            await connection.execute(
                sa.update(outbox_processes)
                .where(outbox_processes.c.role == role)
                .values(seen_at=now_plus(sa.literal(-60.0)))
            )


def alerts(document: dict[str, Any]) -> set[tuple[str, str | None]]:
    return {(each["name"], each["subject"]) for each in document["alerts"]}


def queues(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["queue"]: each for each in document["queues"]}


@pytest.fixture
async def on_servers(
    postgres_url, rabbitmq_server, rabbitmq_url, tmp_path
) -> AsyncIterator[Monitored]:
    settings = {"MQ_MANAGEMENT_URL": rabbitmq_server.management_url, **ROOM}
    async with Monitored(postgres_url, rabbitmq_url, tmp_path, **settings) as deployment:
        yield deployment


async def works(deployment: Monitored) -> bool:
    """Whether the monitor sees both processes work, with their queues and what they have done."""
    ended = await deployment.run("relay", "monitor", "--once", "--json")
    document = json.loads(ended.out)
    lag = {each["stage"]: each["events"] for each in document["lag"]}
    own = queues(document).get(QUEUE, {})
    return (
        ended.code == 0
        and lag["commit to claim"] == lag["claim to confirm"] == lag["deliver to effect"] == 5
        and own.get("consumers") == 1
        and {each["name"] for each in document["processes"] if each["alive"]}
        == {"relay", "effects"}
    )


async def test_the_monitor_names_a_former_retry_queue_a_killed_relay_and_a_missing_consumer(
    on_servers,
):
    relay, consumer = await on_servers.relay(), await on_servers.consumer()
    async with on_servers.engine.begin() as connection:
        await connection.execute(outbox.insert(*(an_event() for _ in range(5))))
    await on_servers.applies(5)
    await eventually(lambda: works(on_servers), within=40)

    [former] = FORMER.retry_queues.values()
    transport = broker(str(on_servers._env["MQ_BROKER_URL"]))
    await transport.declare(
        FORMER.topology(main_exchange=EXCHANGE, dlx_exchange="health_data_dlx")
    )
    async with transport.publisher() as publisher:
        message = on_the_wire(an_event(), exchange="", routing_key=former)
        assert await publisher.publish([message], within=SOON) == [Outcome.ACKED]
    await write_dead_letter(on_servers.engine, a_dead_letter(reason="no_handler"))

    async def names_both() -> bool:
        found = alerts(await on_servers.once(code=1))
        return {("OutboxRetryQueueFormer", former), ("OutboxDeadLetters", "effects")} == found

    await eventually(names_both, within=20)

    for process, kind in ((relay, "relay"), (consumer, "consumer")):
        process.kill()
        await on_servers.forget(kind)
    async with on_servers.engine.begin() as connection:
        await connection.execute(sa.delete(dead_letters))

    async def names_what_is_gone() -> bool:
        document = await on_servers.once(code=1)
        names = {name for name, _ in alerts(document)}
        wanted = {"OutboxRelayAbsent", "OutboxProcessDown", "OutboxConsumerAbsent"}
        return wanted <= names and not queues(document)[QUEUE]["consumers"]

    await eventually(names_what_is_gone, within=20)
    printed = await on_servers.run("relay", "monitor", "--once")
    assert f"relay {os.uname().nodename}:{relay.pid}" in printed.out
    assert former in printed.out


async def test_a_process_that_stops_leaves_nothing_behind(urls, tmp_path):
    async with Monitored(*urls, tmp_path, **ROOM) as deployment:
        relay, consumer = await deployment.relay(), await deployment.consumer()
        await eventually(lambda: has_processes(deployment, 2))

        assert await relay.terminate() == 0
        assert await consumer.terminate() == 0

        assert await deployment.rows(outbox_processes) == []


async def has_processes(deployment: Monitored, count: int) -> bool:
    return len(await deployment.rows(outbox_processes)) == count


async def test_the_rest_is_shown_while_the_broker_cannot_be_reached(
    postgres_url, sqlite_url, tmp_path
):
    dead = "amqp://guest:guest@127.0.0.1:1"
    async with Monitored(postgres_url, dead, tmp_path) as deployment:
        document = await deployment.once(code=3)

    assert document["outbox"]["rows"] == 0
    assert document["queues"] is None
    assert "127.0.0.1:1" in document["broker_problem"]
    assert alerts(document) == {("OutboxRelayAbsent", "relay"), ("OutboxBrokerDown", "broker")}

    gone = "postgresql://u:secret-word@127.0.0.1:1/x"
    async with Monitored(sqlite_url, dead, tmp_path, MQ_DATABASE_URL=gone) as deployment:
        document = await deployment.once(code=3)

    assert document["outbox"] is None
    assert "secret-word" not in json.dumps(document)
    assert ("OutboxDatabaseDown", "database") in alerts(document)


@asynccontextmanager
async def on_a_terminal(directory: Path, **settings: str) -> AsyncIterator[tuple[int, Any]]:
    """Run `relay monitor` on a terminal of its own; give the terminal and the process."""
    ours, theirs = pty.openpty()
    environment = {"PATH": "", "PYTHONPATH": str(REPOSITORY), "TERM": "xterm", **settings}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay", "monitor"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        cwd=directory,
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    try:
        yield ours, process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)


def written(terminal: int, so_far: list[str]) -> str:
    """What was written on *terminal* until now."""
    with suppress(OSError):  # nothing was written, or the process has ended
        so_far.append(os.read(terminal, 65_536).decode(errors="replace"))
    return "".join(so_far)


async def test_the_live_view_shows_an_unavailable_broker_and_ends_with_a_key(
    sqlite_url, embedded_broker_url, tmp_path
):
    settings = {"MQ_DATABASE_URL": sqlite_url, "MQ_BROKER_URL": embedded_broker_url}
    so_far: list[str] = []
    async with on_a_terminal(tmp_path, **settings) as (terminal, process):
        await eventually(lambda: "OutboxBrokerDown" in written(terminal, so_far), within=40)
        os.write(terminal, b"x")
        await broker(embedded_broker_url).declare(
            FORMER.topology(main_exchange=EXCHANGE, dlx_exchange=DLX)
        )
        await eventually(lambda: "embedded broker" in written(terminal, so_far), within=20)
        assert process.returncode is None

        os.write(terminal, b"q")
        async with asyncio.timeout(20):
            assert await process.wait() == 0
        # The screen before is back.
        assert "\x1b[?1049l" in written(terminal, so_far)


def test_the_live_view_needs_a_terminal_and_json_one_reading(tmp_path, sqlite_url):
    run = CommandLine(tmp_path, MQ_DATABASE_URL=sqlite_url)

    assert run("relay", "monitor", "--json")[::2] == (2, "error: --json: needs --once\n")
    live = run("relay", "monitor")
    assert live.code == 2
    assert "standard output is no terminal: use --once" in live.err


async def test_a_role_for_people_needs_five_tables_and_a_missing_right_is_named(
    postgres_url, embedded_broker_url, tmp_path
):
    tables = ("outbox", "dead_letters", "outbox_processes", "outbox_targets", "failing_messages")
    versions = ("outbox_relay_version", "outbox_compatibility")
    grants = [f"GRANT SELECT ON {table}" for table in (*tables, *versions)]
    async with role(postgres_url, *grants) as (name, url):
        run = CommandLine(tmp_path, MQ_DATABASE_URL=url, MQ_BROKER_URL=embedded_broker_url)
        seen = await run.run("relay", "monitor", "--once", "--json")
        await execute(postgres_url, f"REVOKE SELECT ON failing_messages FROM {name}", "SELECT 1")
        refused = await run.run("relay", "monitor", "--once", "--json")

    # The file of the broker does not exist.
    assert (seen.code, json.loads(seen.out)["database_problem"]) == (3, None)
    assert refused.code == 2
    assert "no privilege: GRANT SELECT ON failing_messages" in refused.err
