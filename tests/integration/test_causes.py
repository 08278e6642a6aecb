"""
The twenty faults of the page "Find the cause": one command names the cause of each.
"""

import re
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from yarl import URL

import outbox
from consumer.queues import ConsumerQueues
from outbox.database import migrate
from outbox.tables import outbox_compatibility
from outbox.transports.base import Outcome
from outbox.transports.topology import Queue, Topology
from tests.support.builders import an_event, on_the_wire
from tests.support.certificates import DAY, YEAR, Authority
from tests.support.clock import WallClock
from tests.support.commands import CommandLine
from tests.support.consumer_deployment import EXCHANGE, SOON, broker
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.pages import REPOSITORY
from tests.support.pgbouncer import pgbouncer
from tests.support.processes import ChildProcess
from tests.support.servers import PostgresServer, RabbitmqServer
from tests.support.servers.ports import free_port
from tests.support.tls import postgres_tls

PAGE = (REPOSITORY / "docs" / "how-to" / "find-the-cause.md").read_text()
TARGET = "tests.support.effects:consumer"
QUEUE = "health_data_processing.effects"
DLX = "health_data_dlx"
BEGIN_AND_WRITE = "SELECT outbox_add('test.happened', '{}')"
Environment = Mapping[str, str]


@dataclass(frozen=True)
class Scene:
    """A deployment on real servers, with its exchanges, and no process that runs."""

    deployment: Deployment
    postgres: PostgresServer
    rabbitmq: RabbitmqServer
    vhost: str
    database_url: str
    broker_url: str
    directory: Path

    async def execute(self, statement: str | sa.Executable) -> None:
        async with self.deployment.engine.begin() as connection:
            text = sa.text(statement) if isinstance(statement, str) else statement
            await connection.execute(text)

    async def publish(self, routing_key: str, event_type: str = "test.happened") -> None:
        """Publish a message straight to the queue *routing_key*."""
        message = on_the_wire(an_event(type=event_type), exchange="", routing_key=routing_key)
        async with broker(self.broker_url).publisher() as publisher:
            assert await publisher.publish([message], within=SOON) == [Outcome.ACKED]

    async def declare(self, *delays: timedelta) -> ConsumerQueues:
        """Declare the consumer's queues, with retry queues for *delays*."""
        queues = ConsumerQueues(QUEUE, bindings=["test.#"], delays=[*delays])
        await broker(self.broker_url).declare(
            queues.topology(main_exchange=EXCHANGE, dlx_exchange=DLX)
        )
        return queues


@pytest.fixture
async def scene(
    *, postgres_server, postgres_url, rabbitmq_server, rabbitmq_vhost, rabbitmq_url, tmp_path
) -> AsyncIterator[Scene]:
    settings = {
        "MQ_MANAGEMENT_URL": rabbitmq_server.management_url,
        "MQ_MONITOR_DISK_FREE_BYTES": "0",
        "MQ_RETRY_DELAYS": "[60]",
    }
    async with Deployment(postgres_url, rabbitmq_url, tmp_path, **settings) as deployment:
        assert await deployment.command("relay", "topology") == 0
        yield Scene(
            deployment,
            postgres_server,
            rabbitmq_server,
            rabbitmq_vhost,
            postgres_url,
            rabbitmq_url,
            tmp_path,
        )


@asynccontextmanager
async def broker_down(scene: Scene) -> AsyncIterator[Environment]:
    yield {"MQ_BROKER_URL": str(URL(scene.broker_url).with_port(free_port()))}


@asynccontextmanager
async def virtual_host_gone(scene: Scene) -> AsyncIterator[Environment]:
    yield {"MQ_BROKER_URL": str(URL(scene.broker_url).with_path("/gone"))}


@asynccontextmanager
async def wrong_password(scene: Scene) -> AsyncIterator[Environment]:
    yield {"MQ_BROKER_URL": str(URL(scene.broker_url).with_password("wrong"))}


@asynccontextmanager
async def no_permission(scene: Scene) -> AsyncIterator[Environment]:
    http = scene.rabbitmq.http
    async with http.lent_user(scene.vhost, configure=".*") as (name, password):
        allowed = {"configure": ".*", "write": "^$", "read": ".*"}
        await http.request("PUT", "permissions", scene.vhost, name, body=allowed)
        yield {"MQ_BROKER_URL": str(URL(scene.broker_url).with_user(name).with_password(password))}


@asynccontextmanager
async def unbound_key(scene: Scene) -> AsyncIterator[Environment]:
    await scene.execute(outbox.insert(an_event(type="payment.made")))
    yield {}


@asynccontextmanager
async def handler_bug(scene: Scene) -> AsyncIterator[Environment]:
    await scene.deployment.consumer()
    await scene.publish(QUEUE, "test.fails.always")
    yield {}


@asynccontextmanager
async def poison_message(scene: Scene) -> AsyncIterator[Environment]:
    await scene.deployment.consumer()
    message = {
        "properties": {
            "message_id": str(uuid4()),
            "type": "test.happened",
            "content_type": "application/json",
        },
        "routing_key": QUEUE,
        "payload": "no JSON",
        "payload_encoding": "string",
    }
    await scene.rabbitmq.http.request(
        "POST", "exchanges", scene.vhost, "amq.default", "publish", body=message
    )
    yield {}


@asynccontextmanager
async def schema_behind(scene: Scene) -> AsyncIterator[Environment]:
    await scene.execute(f"UPDATE {migrate.VERSION_TABLE} SET version_num = '0010'")
    yield {}


@asynccontextmanager
async def schema_ahead(scene: Scene) -> AsyncIterator[Environment]:
    await scene.execute(f"UPDATE {migrate.VERSION_TABLE} SET version_num = '9999'")
    await scene.execute(sa.update(outbox_compatibility).values(oldest_revision="9998"))
    yield {}


@asynccontextmanager
async def full_disk(scene: Scene) -> AsyncIterator[Environment]:
    async with scene.rabbitmq.disk_alarm():
        yield {}


@asynccontextmanager
async def memory_alarm(scene: Scene) -> AsyncIterator[Environment]:
    async with scene.rabbitmq.memory_alarm():
        yield {}


@asynccontextmanager
async def long_transaction(scene: Scene) -> AsyncIterator[Environment]:
    async with scene.deployment.engine.connect() as connection:
        await connection.execute(sa.text(BEGIN_AND_WRITE))
        yield {}


@asynccontextmanager
async def changed_delays(scene: Scene) -> AsyncIterator[Environment]:
    await scene.deployment.consumer()
    [former] = (await scene.declare(timedelta(minutes=77))).retry_queues.values()
    await scene.publish(former)
    yield {}


@asynccontextmanager
async def orphan_retry_queue(scene: Scene) -> AsyncIterator[Environment]:
    orphan = "health_data_processing.gone.retry.30s"
    await broker(scene.broker_url).declare(
        Topology(queues=[Queue(orphan, {"x-queue-type": "quorum"})])
    )
    await scene.publish(orphan)
    yield {}


@asynccontextmanager
async def clock_off(scene: Scene) -> AsyncIterator[Environment]:
    clock = WallClock(scene.directory / "clock")
    clock.set(timedelta(hours=1))
    yield clock.environment


@asynccontextmanager
async def expired_certificate(scene: Scene) -> AsyncIterator[Environment]:
    authority = Authority(scene.directory)
    async with postgres_tls(scene.postgres) as tls:
        await tls.present(authority.pair("127.0.0.1", begins=-YEAR, ends=-DAY))
        parameters = {"sslmode": "verify-full", "sslrootcert": str(authority.path)}
        url = make_url(scene.database_url).update_query_dict(parameters)
        yield {
            "MQ_DATABASE_URL": url.set(drivername="postgresql").render_as_string(
                hide_password=False
            )
        }


@asynccontextmanager
async def misspelt_setting(_scene: Scene) -> AsyncIterator[Environment]:
    yield {"MQ_DATABASE_URI": "postgresql://db.example/app"}


@asynccontextmanager
async def relay_gone(scene: Scene) -> AsyncIterator[Environment]:
    relay = await scene.deployment.relay()
    relay.kill()
    yield {}


@asynccontextmanager
async def consumer_gone(scene: Scene) -> AsyncIterator[Environment]:
    consumer = await scene.deployment.consumer()
    consumer.kill()
    yield {}


@asynccontextmanager
async def pooler_in_the_wrong_mode(scene: Scene) -> AsyncIterator[Environment]:
    async with pgbouncer(scene.database_url, mode="transaction") as url:
        yield {"MQ_DATABASE_URL": url}


FAULTS: dict[str, Callable[[Scene], AbstractAsyncContextManager[Environment]]] = {
    "broker down": broker_down,
    "virtual host gone": virtual_host_gone,
    "wrong password": wrong_password,
    "no permission": no_permission,
    "unbound key": unbound_key,
    "handler bug": handler_bug,
    "poison message": poison_message,
    "schema behind": schema_behind,
    "schema ahead": schema_ahead,
    "full disk of the broker": full_disk,
    "memory alarm of the broker": memory_alarm,
    "long transaction": long_transaction,
    "changed delays": changed_delays,
    "orphan retry queue": orphan_retry_queue,
    "clock off": clock_off,
    "expired certificate": expired_certificate,
    "misspelt setting": misspelt_setting,
    "relay gone": relay_gone,
    "consumer gone": consumer_gone,
    "pooler in the wrong mode": pooler_in_the_wrong_mode,
}


@dataclass(frozen=True)
class Row:
    """A row of the page: the words of a command, and the line that it prints."""

    command: list[str]
    line: re.Pattern[str]


def rows() -> dict[str, Row]:
    table = PAGE.partition("<!-- begin causes -->")[2].partition("<!-- end causes -->")[0]
    found = {}
    for row in table.strip().splitlines()[2:]:
        fault, command, line = (cell.strip() for cell in row.strip("| ").split(" | "))
        words = command.strip("`").replace("app:etl", TARGET).split()
        parts = map(re.escape, line.strip("`").strip().split("…"))
        found[fault] = Row(words, re.compile(".*".join(parts)))
    return found


ROWS = rows()


def test_the_page_has_each_fault_and_no_other():
    assert [*ROWS] == [*FAULTS]


@pytest.mark.parametrize("fault", FAULTS)
async def test_one_command_names_the_cause(fault, scene):
    row = ROWS[fault]
    printed = []
    async with FAULTS[fault](scene) as settings:

        async def names_the_cause() -> bool:
            printed[:] = [await output(scene.deployment, row.command, settings)]
            return row.line.search(printed[0]) is not None

        try:
            await eventually(names_the_cause, within=30)
        except AssertionError:
            pytest.fail(f"{row.line.pattern} is not in:\n{printed}")


async def output(deployment: Deployment, command: list[str], settings: Environment) -> str:
    """What a command prints."""
    environment = {**deployment.settings, **settings}
    if "LD_PRELOAD" not in settings:
        ended = await CommandLine(deployment.directory, **environment).run(*command)
        return ended.out + ended.err
    # A library is preloaded by a program that begins, and by none that forks.
    log = deployment.directory / "command.log"
    async with ChildProcess([sys.executable, "-m", *command], log=log, env=environment) as child:
        await child.wait(within=30)
        return child.output
