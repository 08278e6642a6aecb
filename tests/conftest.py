"""
Fixtures of all tests: each test gets its own database, virtual host or file, on real servers.

Invariants:

- A test that asks for no server starts none; every started server ends with the run.
- The tables are migrated once per run and copied for each test.
- A missing server ends the run with one message and exit code 3. Its tests are never skipped,
  because a run without tests must not look like success; and they do not fail one by one, because
  the same error a hundred times hides its one cause.
"""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine
from yarl import URL

from outbox.database.engine import create_engine
from tests.support.other_clients.installation import Installation, install, install_kms
from tests.support.prometheus.programs import Programs, programs
from tests.support.redis_servers import (  # noqa: F401  fixtures
    redis_binaries,
    redis_client,
    redis_server,
    redis_url,
)
from tests.support.servers import Fleet, PostgresServer, RabbitmqServer, ServerMissingError
from tests.support.servers.fleet import POSTGRES, RABBITMQ, REDIS
from tests.support.servers.isolation import memory_or_disk
from tests.support.servers.run import FLEET, exit_without, or_exit
from tests.support.servers.selection import uses

OTHER_CLIENTS = pytest.StashKey[Future[Installation]]()
KMS_PACKAGES = pytest.StashKey[Future[Path]]()


def pytest_configure(config: pytest.Config) -> None:
    parent = memory_or_disk()
    config.stash[FLEET] = Fleet(parent)
    # Where `tmp_path` is, with the files of SQLite.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(parent))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--only-server",
        choices=["postgres", "rabbitmq", "redis"],
        help="run only tests that use this one",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if server := config.option.only_server:
        others = [item for item in items if not uses(item, server)]
        items[:] = [item for item in items if uses(item, server)]
        config.hook.pytest_deselected(items=others)


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[FLEET].close()


def pytest_report_header() -> list[str]:
    return [f"servers if needed: {POSTGRES}; {RABBITMQ}; {REDIS}"]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """
    Launch the servers that the collected tests will ask for before the first test runs.

    RabbitMQ needs seconds until it answers, in which tests without it can run; and the
    installation of a package does not count as the time of a test.
    """
    if session.config.option.collectonly:
        return

    fleet = session.config.stash[FLEET]
    requested = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    missing = []
    for needed, launch in (
        ("rabbitmq_server" in requested, fleet.rabbitmq),
        ({"postgres_server", "database_url"} & requested, fleet.postgres),
        ("redis_server" in requested, fleet.redis),
    ):
        try:
            if needed:
                launch()
        except ServerMissingError as error:
            missing.append(error)
    if missing:
        exit_without(*missing)
    if "other_clients" in requested:
        # Meanwhile other tests run.
        session.config.stash[OTHER_CLIENTS] = ThreadPoolExecutor(1).submit(install)
    if "kms_packages" in requested:
        session.config.stash[KMS_PACKAGES] = ThreadPoolExecutor(1).submit(install_kms)


async def _migrate(database_url: str) -> None:
    from outbox.database.migrate import upgrade  # noqa: PLC0415  tests of less need no database

    # In a thread, because it runs an event loop of its own.
    await asyncio.to_thread(upgrade, database_url)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_server(pytestconfig: pytest.Config) -> PostgresServer:
    server = or_exit(pytestconfig.stash[FLEET].postgres)
    await server.start()
    return server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def rabbitmq_server(pytestconfig: pytest.Config) -> RabbitmqServer:
    server = or_exit(pytestconfig.stash[FLEET].rabbitmq)
    await server.start()
    return server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def template_database(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """Name a migrated database that tests copy, and never connect to."""
    name = await postgres_server.create_database()
    await _migrate(postgres_server.url(name))
    await postgres_server.freeze_database(name)
    yield name
    await postgres_server.revive()
    await postgres_server.drop_database(name)


@pytest.fixture
async def postgres_url(
    postgres_server: PostgresServer, template_database: str
) -> AsyncIterator[str]:
    """Give the URL of a migrated database of the test's own."""
    async with postgres_server.database(template=template_database) as url:
        yield url


@pytest.fixture
async def empty_postgres_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """Give the URL of a database of the test's own without any table."""
    async with postgres_server.database() as url:
        yield url


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def migrated_sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("migrated") / "outbox.db"
    await _migrate(f"sqlite+aiosqlite:///{file}")
    return file


@pytest.fixture
def sqlite_url(migrated_sqlite_file: Path, tmp_path: Path) -> str:
    """Give the URL of a migrated SQLite file of the test's own."""
    file = tmp_path / "outbox.db"
    # Not a copy of the file, which would leave out the rows in its write-ahead log.
    with (
        closing(sqlite3.connect(migrated_sqlite_file)) as source,
        closing(sqlite3.connect(file)) as target,
    ):
        source.backup(target)
    return f"sqlite+aiosqlite:///{file}"


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Remove the settings of a developer, and leave a directory that may hold an `.env`."""
    for name in list(os.environ):
        if name.startswith("MQ_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Give the URL of a migrated database of the test's own, of each kind in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """Connect to that database as the processes do."""
    engine = create_engine(make_url(database_url), pool_size=20, application_name="test")
    yield engine
    await engine.dispose()


@pytest.fixture
async def server(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    """Connect to the database in Postgres beside the processes, and under another name."""
    engine = create_engine(make_url(postgres_url), pool_size=2, application_name="test")
    yield engine
    await engine.dispose()


@pytest.fixture(scope="session")
def other_clients(pytestconfig: pytest.Config) -> Installation:
    """Give the installed libraries of other clients; a registry has to answer once."""
    return pytestconfig.stash[OTHER_CLIENTS].result()


@pytest.fixture(scope="session")
def kms_packages(pytestconfig: pytest.Config) -> Path:
    """Give the folder of boto3 and moto; a registry has to answer once."""
    return pytestconfig.stash[KMS_PACKAGES].result()


@pytest.fixture(scope="session")
def prometheus_programs() -> Programs:
    """Give prometheus and promtool; without both, Debian's registry has to answer once."""
    return programs()


@pytest.fixture
async def rabbitmq_vhost(rabbitmq_server: RabbitmqServer) -> AsyncIterator[str]:
    """Give the name of a virtual host of the test's own, for `rabbitmq_server.http`."""
    async with rabbitmq_server.vhost() as name:
        yield name


@pytest.fixture
def rabbitmq_url(rabbitmq_server: RabbitmqServer, rabbitmq_vhost: str) -> str:
    """Give the URL of the same virtual host, for clients."""
    return rabbitmq_server.url(rabbitmq_vhost)


@pytest.fixture
async def traced_rabbitmq_url(
    rabbitmq_server: RabbitmqServer, rabbitmq_vhost: str, rabbitmq_url: str
) -> str:
    """Give the URL of the same virtual host, in which the broker's tracer is on."""
    await rabbitmq_server.http.request("PUT", "vhosts", rabbitmq_vhost, body={"tracing": True})
    return rabbitmq_url


@pytest.fixture
async def rabbitmq_reader_url(
    rabbitmq_server: RabbitmqServer, rabbitmq_vhost: str, rabbitmq_url: str
) -> AsyncIterator[str]:
    """Give the URL of the same virtual host for a user without the right to configure it."""
    async with rabbitmq_server.http.lent_user(rabbitmq_vhost, configure="^$") as (name, password):
        yield str(URL(rabbitmq_url).with_user(name).with_password(password))


@pytest.fixture
def embedded_broker_url(tmp_path: Path) -> str:
    """Give the URL of a file for the embedded broker, which does not exist yet."""
    return f"sqlite:///{tmp_path / 'broker.db'}"
