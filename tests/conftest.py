"""
Fixtures of all tests: databases, virtual hosts and files of a test's own, on real servers.

Invariants:

- A test that asks for no server starts none; what was started ends with the run.
- The tables are migrated once per run and copied for each test.
- A missing server ends the run with one message and exit code 3. It is never skipped, because a
  run that tests nothing must not look like success; and it does not fail test by test, because
  the same error a hundred times hides its one cause.
"""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest
import pytest_asyncio
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine
from yarl import URL

from outbox.database.engine import create_engine
from tests.support.servers import Fleet, PostgresServer, RabbitmqServer, ServerMissingError
from tests.support.servers.fleet import POSTGRES, RABBITMQ

FLEET = pytest.StashKey[Fleet]()
EXIT_WITHOUT_SERVER = 3
S = TypeVar("S")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FLEET] = Fleet()


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[FLEET].close()


def pytest_report_header() -> list[str]:
    return [f"servers if needed: {POSTGRES}; {RABBITMQ}"]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """
    Launch what the collected tests will ask for before the first of them runs.

    RabbitMQ needs seconds until it answers, which the tests without it make use of; and the
    installation of a package is not counted as the time of a test.
    """
    if session.config.option.collectonly:
        return

    fleet = session.config.stash[FLEET]
    wanted = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    missing = []
    for needed, launch in (
        ("rabbitmq_server" in wanted, fleet.rabbitmq),
        ({"postgres_server", "database_url"} & wanted, fleet.postgres),
    ):
        try:
            if needed:
                launch()
        except ServerMissingError as error:
            missing.append(error)
    if missing:
        _exit(*missing)


def _exit(*missing: ServerMissingError) -> NoReturn:
    pytest.exit("\n".join(map(str, missing)), returncode=EXIT_WITHOUT_SERVER)


def _or_exit(launch: Callable[[], S]) -> S:
    try:
        return launch()
    except ServerMissingError as missing:
        _exit(missing)


async def _migrate(database_url: str) -> None:
    from outbox.database.migrate import upgrade  # noqa: PLC0415  tests of less need no database

    # In a thread, because it runs an event loop of its own.
    await asyncio.to_thread(upgrade, database_url)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_server(pytestconfig: pytest.Config) -> PostgresServer:
    server = _or_exit(pytestconfig.stash[FLEET].postgres)
    await server.start()
    return server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def rabbitmq_server(pytestconfig: pytest.Config) -> RabbitmqServer:
    server = _or_exit(pytestconfig.stash[FLEET].rabbitmq)
    await server.start()
    return server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def template_database(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """Name a migrated database that is there to be copied only."""
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
    """Name a migrated database of the test's own."""
    async with postgres_server.database(template=template_database) as url:
        yield url


@pytest.fixture
async def empty_postgres_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """Name a database of the test's own without any table."""
    async with postgres_server.database() as url:
        yield url


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def migrated_sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("migrated") / "outbox.db"
    await _migrate(f"sqlite+aiosqlite:///{file}")
    return file


@pytest.fixture
def sqlite_url(migrated_sqlite_file: Path, tmp_path: Path) -> str:
    """Name a migrated SQLite file of the test's own."""
    file = tmp_path / "outbox.db"
    # Not a copy of the file, which would leave out what may still be in its write-ahead log.
    with (
        closing(sqlite3.connect(migrated_sqlite_file)) as source,
        closing(sqlite3.connect(file)) as target,
    ):
        source.backup(target)
    return f"sqlite+aiosqlite:///{file}"


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Leave no setting of a developer's, and no `.env` of the working directory."""
    for name in list(os.environ):
        if name.startswith("MQ_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Name a migrated database of the test's own, of each kind in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """Offer that database as the processes use it."""
    engine = create_engine(make_url(database_url), pool_size=20, application_name="test")
    yield engine
    await engine.dispose()


@pytest.fixture
async def rabbitmq_vhost(rabbitmq_server: RabbitmqServer) -> AsyncIterator[str]:
    """Name a virtual host of the test's own, as `rabbitmq_server.http` wants it."""
    async with rabbitmq_server.vhost() as name:
        yield name


@pytest.fixture
def rabbitmq_url(rabbitmq_server: RabbitmqServer, rabbitmq_vhost: str) -> str:
    """Name the same virtual host, as clients want it."""
    return rabbitmq_server.url(rabbitmq_vhost)


@pytest.fixture
async def rabbitmq_reader_url(
    rabbitmq_server: RabbitmqServer, rabbitmq_vhost: str, rabbitmq_url: str
) -> AsyncIterator[str]:
    """Name the same virtual host, as a user who may configure nothing in it."""
    async with rabbitmq_server.http.lent_user(rabbitmq_vhost, configure="^$") as (name, word):
        yield str(URL(rabbitmq_url).with_user(name).with_password(word))


@pytest.fixture
def embedded_broker_url(tmp_path: Path) -> str:
    """Name a file for the embedded broker, not there yet."""
    return f"sqlite:///{tmp_path / 'broker.db'}"
