"""
Row F14: revoked and granted permissions, and changed passwords.

Neither ends a process: it logs the refusal, and retries with pauses.
"""

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy.engine import make_url
from yarl import URL

from tests.support.checked_deployment import CheckedDeployment
from tests.support.eventually import eventually
from tests.support.processes import ChildProcess
from tests.support.servers import Management

pytestmark = [pytest.mark.fault, pytest.mark.selection]

ALL, NOTHING = ".*", "^$"
UNAVAILABLE = "server_unavailable"
RIGHT = "the-right-password"
NO_PRIVILEGE, WRONG_PASSWORD = "42501", "28P01"
CONNECTIONS = 3
"""At least one of the relay and two of the consumer."""


@dataclass(frozen=True)
class BrokerUser:
    """A user of one virtual host of RabbitMQ."""

    management: Management
    vhost: str
    name: str
    word: str

    async def may(self, what: str) -> None:
        """Grant all permissions on names that match *what*, to connections made from now on."""
        rights = {"configure": what, "write": what, "read": what}
        await self.management.request("PUT", "permissions", self.vhost, self.name, body=rights)

    async def has_password(self, word: str) -> None:
        await self.management.request(
            "PUT", "users", self.name, body={"password": word, "tags": ""}
        )

    async def is_cut(self) -> bool:
        """Close the connections that the broker lists; return whether it listed any."""
        return await self.management.close_connections(self.vhost) > 0

    async def cut(self) -> None:
        """Close all connections, as soon as the broker lists them."""
        closed = 0

        async def all_are_closed() -> bool:
            nonlocal closed
            closed += await self.management.close_connections(self.vhost)
            return closed >= CONNECTIONS

        await eventually(all_are_closed, message="too few connections")


@dataclass(frozen=True)
class DatabaseUser:
    """A role of Postgres that may use the tables of one database."""

    connection: Any
    name: str

    async def may_not(self, right: str, table: str) -> None:
        await self.connection.execute(f"REVOKE {right} ON {table} FROM {self.name}")

    async def may(self, right: str, table: str) -> None:
        await self.connection.execute(f"GRANT {right} ON {table} TO {self.name}")

    async def has_password(self, word: str) -> None:
        """Change the password, and end all sessions of the user."""
        await self.connection.execute(f"ALTER ROLE {self.name} PASSWORD '{word}'")
        await self.connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", self.name
        )


@pytest.fixture
async def broker_user(rabbitmq_server, rabbitmq_vhost) -> AsyncIterator[BrokerUser]:
    http = rabbitmq_server.http
    async with http.lent_user(rabbitmq_vhost, configure=ALL) as (name, word):
        yield BrokerUser(http, rabbitmq_vhost, name, word)


@pytest.fixture
async def deployment_of_broker_user(
    postgres_url, rabbitmq_url, broker_user, tmp_path
) -> AsyncIterator[CheckedDeployment]:
    url = URL(rabbitmq_url).with_user(broker_user.name).with_password(broker_user.word)
    async with CheckedDeployment(postgres_url, str(url), tmp_path) as deployment:
        yield deployment


@pytest.fixture
async def database_user(postgres_server, postgres_url) -> AsyncIterator[DatabaseUser]:
    name = f"test_{secrets.token_hex(6)}"
    async with postgres_server.connection(make_url(postgres_url).database) as connection:
        await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{RIGHT}'")
        await connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
        await connection.execute(f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {name}")
        await connection.execute(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {name}")
        try:
            yield DatabaseUser(connection, name)
        finally:
            await connection.execute(f"DROP OWNED BY {name}")
            await connection.execute(f"DROP ROLE {name}")


@pytest.fixture
async def deployment_of_database_user(
    postgres_url, rabbitmq_url, database_user, tmp_path
) -> AsyncIterator[CheckedDeployment]:
    url = make_url(postgres_url).set(username=database_user.name, password=RIGHT)
    settings = {"MQ_DATABASE_URL": url.render_as_string(hide_password=False)}
    async with CheckedDeployment(postgres_url, rabbitmq_url, tmp_path, **settings) as deployment:
        yield deployment


async def reports(process: ChildProcess, problem: str) -> None:
    """Wait until *process* has logged that a server is unavailable because of *problem*."""

    def is_reported() -> bool:
        return any(UNAVAILABLE in line and problem in line for line in process.output.splitlines())

    try:
        await eventually(is_reported, within=30)
    except AssertionError as late:
        late.add_note(process.tail)
        raise


async def test_processes_survive_revoked_permissions_at_the_broker(
    broker_user, deployment_of_broker_user
):
    """F14: permissions revoked, RabbitMQ."""
    deployment = deployment_of_broker_user
    _, consumer = await deployment.start_processes()
    async with deployment.survives("rights at the broker", progress_seconds=20):
        await broker_user.may(NOTHING)
        await broker_user.cut()
        await deployment.wait_for_publish_error("refused")
        await reports(consumer, "user may not read it")
        await broker_user.may(ALL)
        # RabbitMQ caches permissions per connection; the consumer has no connection now.
        await eventually(broker_user.is_cut)


async def test_processes_survive_a_changed_password_at_the_broker(
    broker_user, deployment_of_broker_user
):
    """F14: password changed, RabbitMQ."""
    deployment = deployment_of_broker_user
    processes = await deployment.start_processes()
    async with deployment.survives("password at the broker", progress_seconds=20):
        await broker_user.has_password(secrets.token_hex(8))
        await broker_user.cut()
        for process in processes:
            await reports(process, "the broker refuses user or password")
        await broker_user.has_password(broker_user.word)
    assert broker_user.word not in deployment.logs()


@pytest.mark.parametrize(
    ("right", "table", "who"),
    [("DELETE", "outbox", 0), ("SELECT", "outbox", 0), ("INSERT", "processed_messages", 1)],
)
async def test_processes_survive_revoked_permissions_in_the_database(
    database_user, deployment_of_database_user, right, table, who
):
    """F14: permissions revoked, Postgres."""
    deployment = deployment_of_database_user
    processes = await deployment.start_processes()
    async with deployment.survives("rights in the database", progress_seconds=20):
        await database_user.may_not(right, table)
        await reports(processes[who], NO_PRIVILEGE)
        await database_user.may(right, table)


async def test_processes_survive_a_changed_password_in_the_database(
    database_user, deployment_of_database_user
):
    """F14: password changed, Postgres."""
    deployment = deployment_of_database_user
    processes = await deployment.start_processes()
    async with deployment.survives("password in the database", progress_seconds=20):
        await database_user.has_password("another-password")
        for process in processes:
            await reports(process, WRONG_PASSWORD)
        await database_user.has_password(RIGHT)
    assert RIGHT not in deployment.logs()
