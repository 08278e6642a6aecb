"""
Databases of tests on a Postgres: copies of one that is migrated once.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from outbox.database import migrate
from outbox.database.engine import create_engine
from outbox.database.errors import driver_errors_translated


@contextmanager
def databases(server: str) -> Iterator["Databases"]:
    """
    Databases on the Postgres at the URL *server*, whose role may create some.

    Raises ConfigurationError and DatabaseUnavailable.
    """
    url = make_url(server).set(drivername="postgresql+asyncpg")
    template = _new_name()
    _execute(url, f"CREATE DATABASE {template}")
    try:
        # In a thread, for the test may run an event loop.
        migrated = url.set(database=template).render_as_string(hide_password=False)
        _in_thread(lambda: migrate.upgrade(migrated))
        yield Databases(url, template)
    finally:
        _execute(url, f"DROP DATABASE IF EXISTS {template} WITH (FORCE)")


@dataclass(frozen=True, slots=True)
class Databases:
    """Databases on the server of *url*, copies of *template*."""

    url: URL
    template: str

    @contextmanager
    def lent(self) -> Iterator[str]:
        """Give the URL of a database, which is dropped at the end."""
        name = _new_name()
        _execute(self.url, f"CREATE DATABASE {name} TEMPLATE {self.template}")
        try:
            yield self.url.set(database=name).render_as_string(hide_password=False)
        finally:
            _execute(self.url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _new_name() -> str:
    return f"outbox_test_{uuid4().hex}"


def _execute(url: URL, statement: str) -> None:
    _in_thread(lambda: asyncio.run(_executed(url, statement)))


async def _executed(url: URL, statement: str) -> None:
    engine = create_engine(url, pool_size=1, application_name="outbox test")
    try:
        with driver_errors_translated():
            autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
            async with autocommit.connect() as connection:
                await connection.execute(sa.text(statement))
    finally:
        await engine.dispose()


def _in_thread(work: Callable[[], object]) -> None:
    with ThreadPoolExecutor(1) as thread:
        thread.submit(work).result()
