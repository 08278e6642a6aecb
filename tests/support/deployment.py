"""
The product as it is deployed: `relay` and `consumer` processes on one database and one broker.
"""

import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database.engine import create_engine
from outbox.database.errors import is_unavailable
from outbox.errors import DatabaseUnavailable
from outbox.tables import dead_letters, outbox
from tests.support import effects
from tests.support.commands import CommandLine, Ended
from tests.support.eventually import eventually
from tests.support.processes import ChildProcess, PreparedProcess

START_SECONDS = 30.0


class Deployment:
    """
    Processes that end with the `async with`, and access to their database.

    Args:
        settings: further environment variables of every process; MQ_DATABASE_URL may name a proxy
            in front of the same database.
    """

    def __init__(
        self, database_url: str, broker_url: str, directory: Path, **settings: str
    ) -> None:
        self.engine: AsyncEngine = create_engine(
            make_url(database_url),
            pool_size=10,
            application_name="test",
            schema=settings.get("MQ_DATABASE_SCHEMA"),
        )
        self.directory = directory
        self._env = {
            "MQ_DATABASE_URL": database_url,
            "MQ_BROKER_URL": broker_url,
            "MQ_METRICS_PORT": "0",
            "MQ_LOG_FORMAT": "json",
            "MQ_RECONNECT_MAX_SECONDS": "1",
            "MQ_RETRY_DELAYS": "[0.2]",
            "MQ_POLL_MAX_SECONDS": "0.2",
            **settings,
        }
        self._stack = AsyncExitStack()
        self._started = 0

    async def __aenter__(self) -> Self:
        async with self.engine.begin() as connection:
            await effects.create(connection)
        return self

    async def __aexit__(self, *_failure: object) -> None:
        await self._stack.aclose()
        await self.engine.dispose()

    @property
    def settings(self) -> dict[str, str]:
        """The environment variables of every process."""
        return {**self._env}

    def unset(self, setting: str) -> None:
        """Start further processes without *setting*."""
        del self._env[setting]

    async def relay(self) -> ChildProcess:
        return await self._start("relay", "run", announces="relay_started")

    async def consumer(self, module: str = "effects", *, name: str = "consumer") -> ChildProcess:
        target = f"tests.support.{module}:{name}"
        return await self._start("consumer", "run", target, announces="consumer_started")

    async def ordered_consumer(self) -> ChildProcess:
        return await self.consumer("ordered")

    async def command(self, module: str, *arguments: str) -> int:
        """The exit status of a command with the settings of the processes."""
        return (await self.run(module, *arguments)).code

    async def run(self, module: str, *arguments: str) -> Ended:
        """Run a command with the settings of the processes."""
        return await CommandLine(self.directory, **self._env).run(module, *arguments)

    async def _start(self, module: str, *arguments: str, announces: str) -> ChildProcess:
        self._started += 1
        child = self._process(
            [sys.executable, "-m", module, *arguments],
            self.directory / f"{module}-{self._started}.log",
        )
        await self._stack.enter_async_context(child)
        await child.wait_for_line(announces, within=START_SECONDS)
        return child

    def _process(self, command: list[str], log: Path) -> ChildProcess:
        return PreparedProcess(command, log=log, env=self._env)

    async def applied(self) -> list[UUID]:
        return [row["event_id"] for row in await self.rows(effects.effects)]

    async def rows(self, table: sa.Table) -> list[sa.RowMapping]:
        """All rows of *table*; waits until the database answers."""
        found: list[sa.RowMapping] = []

        async def answered() -> bool:
            try:
                async with self.engine.connect() as connection:
                    found[:] = (await connection.execute(sa.select(table))).mappings()
            except DatabaseUnavailable:
                return False
            except (DBAPIError, OSError) as error:
                if is_unavailable(error):
                    return False
                raise
            return True

        await eventually(answered, within=20)
        return found

    async def is_drained(self) -> bool:
        """Whether the outbox is empty."""
        return not await self.rows(outbox)

    async def dead(self) -> list[sa.RowMapping]:
        return await self.rows(dead_letters)

    async def applies(self, count: int, *, within: float = 20) -> None:
        """Wait until at least *count* events were applied."""

        async def enough() -> bool:
            return len(await self.applied()) >= count

        try:
            await eventually(enough, within=within, message=f"fewer than {count} effects")
        except AssertionError as late:
            late.add_note(f"the logs of the processes end with:\n{self.logs()}")
            raise

    def logs(self) -> str:
        """The logs of all processes."""
        return "".join(path.read_text() for path in self.directory.glob("*.log"))
