"""
Fixtures of pytest for users of the library. They work with or without a plugin for asyncio.

    outbox_database_url   a migrated database of the test's own
    outbox_running        `running` on that database, and on the configured broker

Both use SQLite files, or the servers that options of the command line or the configuration name.
Every session of pytest imports this module, so it imports nothing else before a fixture is used.
"""

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from outbox_testing.app import App

_DATABASE = "outbox_database_url"
_BROKER = "outbox_broker_url"
_HELP = {
    _DATABASE: "a Postgres on which each test of the fixtures of outbox-relay gets a database of "
    "its own; the role needs CREATEDB; default: SQLite files",
    _BROKER: "a RabbitMQ for the fixture outbox_running; default: the embedded broker",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("outbox-relay")
    for name, text in _HELP.items():
        group.addoption(f"--{name.replace('_', '-')}", default=None, metavar="URL", help=text)
        parser.addini(name, help=text, default="")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Fail a test with an assertion that it has not awaited, and that has asserted nothing."""
    # Of a fixture, or of a test that has failed by itself.
    _take_unawaited()
    result = yield
    if names := _take_unawaited():
        write = f"with a session of asyncio write `await {names[0]}(…)`"
        pytest.fail(f"{names[0]} was not awaited: {write}")
    return result


def _take_unawaited() -> list[str]:
    # A test that has not imported it has called none.
    module: Any = sys.modules.get("outbox.testing.unawaited")
    if module is None:
        return []
    names = list(module.UNAWAITED.values())
    module.UNAWAITED.clear()
    return names


def _configured(config: pytest.Config, name: str) -> str | None:
    return config.getoption(name) or config.getini(name) or None


@pytest.fixture(scope="session")
def _outbox_databases(pytestconfig: pytest.Config) -> Iterator[Any]:
    """Make databases on the configured Postgres; None without one."""
    server = _configured(pytestconfig, _DATABASE)
    if server is None:
        yield None
        return
    from outbox_testing.postgres import databases  # noqa: PLC0415

    with databases(server) as of_server:
        yield of_server


@pytest.fixture
def outbox_database_url(_outbox_databases: Any, tmp_path: Path) -> Iterator[str]:
    """
    Give the URL of a migrated database of the test's own, with a driver for asyncio.

    A Postgres database is dropped after the test.
    """
    if _outbox_databases is not None:
        with _outbox_databases.lent() as url:
            yield url
        return
    from outbox_testing.database import create_file, sqlite_url  # noqa: PLC0415

    file = tmp_path / "outbox.db"
    create_file(file)
    yield str(sqlite_url(file).set(drivername="sqlite+aiosqlite"))


@pytest.fixture
def outbox_running(
    outbox_database_url: str, pytestconfig: pytest.Config
) -> "Callable[..., AbstractAsyncContextManager[App]]":
    """Give `consumer.testing.running` for the test's database and the configured broker."""
    from consumer.testing import running  # noqa: PLC0415

    broker = _configured(pytestconfig, _BROKER)
    return partial(running, database=outbox_database_url, broker=broker)
