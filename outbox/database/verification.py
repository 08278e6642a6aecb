"""
Checking the tables that a process works on: at start, and from time to time while it runs.
"""

from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database import id_counters, location, migrate, privileges, row_access, targets
from outbox.database.engine import DEFERRED
from outbox.database.errors import with_deadline
from outbox.database.location import Location
from outbox.database.privileges import Rights
from outbox.errors import SchemaMismatch
from outbox.tables import outbox_compatibility, outbox_targets

_ANSWERS_WITHIN = timedelta(seconds=20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """
    The database that a process needs.

    Args:
        rights: The rights that it needs, by table.
        source: `relay`, or the name of the consumer.
        target: The exchange that it publishes to, or the queue that it reads.
        refusal: A sentence for another recorded target, with `{recorded}` in its place.

    """

    rights: Rights
    source: str
    target: str
    refusal: str

    async def verify(self, engine: AsyncEngine, *, register: bool = False) -> Location:
        """
        Check everything; returns where the tables are.

        With *register*, the first process of a source records its target.
        Raises SchemaMismatch with a line for each problem, and DatabaseUnavailable.
        """
        found = await migrate.verify(engine)
        await privileges.verify(engine, self._all_rights)
        return await self.verify_again(engine, found, register=register)

    async def verify_again(
        self, engine: AsyncEngine, found: Location, *, register: bool = False
    ) -> Location:
        """
        Check what an operator may change beneath a process; returns where the tables are now.

        *found* is the result of `verify`; the tables may have been migrated since. With
        *register*, the target is recorded if there is none: a migration down and up again empties
        the table. Raises SchemaMismatch with a line for each problem, and DatabaseUnavailable.
        """
        now, recorded = await self._verify_rows(engine, found)
        if register and recorded is None:
            async with with_deadline(_ANSWERS_WITHIN), engine.begin() as connection:
                await targets.register(connection, self.source, self.target)
            await self._verify_rows(engine, found)
        return now

    async def _verify_rows(
        self, engine: AsyncEngine, found: Location
    ) -> tuple[Location, str | None]:
        """Where the tables are now, and the recorded target of the source, if there is one."""
        async with with_deadline(_ANSWERS_WITHIN), engine.connect() as connection:
            await connection.execution_options(**DEFERRED)
            problems = await location.moved(connection, self._all_rights, found.schema)
            problems += await row_access.problems(connection, self._all_rights)
            if problems:
                # Hidden rows would mislead the checks below.
                raise SchemaMismatch("\n".join(problems))
            now = await migrate.verify_revision(connection)
            written = [table for table, rights in self.rights.items() if {*rights} - {"SELECT"}]
            problems = await id_counters.problems(connection, filter(_has_counter, written))
            recorded = await targets.read(connection, self.source)
        if recorded not in (None, self.target):
            problems.append(self.refusal.format(recorded=recorded))
        if problems:
            raise SchemaMismatch("\n".join(problems))
        return now, recorded

    @property
    def _all_rights(self) -> Rights:
        return {
            **self.rights,
            outbox_targets: ("SELECT", "INSERT"),
            migrate.VERSION: ("SELECT",),
            outbox_compatibility: ("SELECT",),
        }


def _has_counter(table: sa.Table) -> bool:
    return "id" in table.c and table.c.id.identity is not None
