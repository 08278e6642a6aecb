"""
Users of Postgres without the rights that a process needs.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TypeAlias

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from consumer import assembly as of_consumers
from outbox.database.engine import create_engine
from outbox.errors import SchemaMismatch
from relay import assembly as of_relays
from tests.support import effects, ordered
from tests.support.pages import REPOSITORY

ROLE = "role_of_bad_inputs"


@pytest.fixture
async def owner(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    """Connect as the owner of the tables; the rights of ROLE are revoked at the end."""
    owner = create_engine(make_url(postgres_url), pool_size=1, application_name="test")
    await execute(owner, f"DROP ROLE IF EXISTS {ROLE}", f"CREATE ROLE {ROLE} NOLOGIN")
    yield owner
    await execute(owner, f"DROP OWNED BY {ROLE}", f"DROP ROLE {ROLE}")
    await owner.dispose()


@pytest.fixture
async def lowly(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    """Connect with the rights of ROLE, and no other."""
    engine = create_engine(make_url(postgres_url), pool_size=1, application_name="test")
    sa.event.listen(
        engine.sync_engine, "begin", lambda c: c.exec_driver_sql(f"SET LOCAL ROLE {ROLE}")
    )
    yield engine
    await engine.dispose()


Verify: TypeAlias = Callable[[AsyncEngine], Awaitable[object]]
FOR_HANDLERS = {"GRANT INSERT ON outbox"}
"""Rights that only handlers need that record events."""

IN_ORDER = {
    f"GRANT {right} ON parked_messages" for right in ("SELECT", "INSERT", "UPDATE", "DELETE")
}
PROCESSES: dict[str, tuple[str, Verify, set[str]]] = {
    "relay": ("relay", of_relays.verified, set()),
    "consumer": (
        "consumer",
        partial(of_consumers.verified, effects.consumer),
        FOR_HANDLERS | IN_ORDER,
    ),
    "ordered consumer": (
        "consumer",
        partial(of_consumers.verified, ordered.consumer),
        FOR_HANDLERS,
    ),
}


def documented_rights(process: str) -> set[str]:
    """The rights on tables that the documentation grants to *process*, one by one."""
    lines = (REPOSITORY / "docs" / "how-to" / "run.md").read_text().splitlines()
    granted = [
        re.fullmatch(r"grant ([a-z, ]+) on (\w+)", line.partition(f" to {process};")[0])
        for line in lines
        if f" to {process};" in line
    ]
    return {
        f"GRANT {right.strip().upper()} ON {found[2]}"
        for found in granted
        if found
        for right in found[1].split(",")
    }


async def execute(engine: AsyncEngine, *statements: str) -> None:
    async with engine.begin() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)


@pytest.mark.parametrize("name", PROCESSES)
async def test_a_missing_privilege_is_a_line_with_the_grant_to_run(name, owner, lowly):
    process, verify, not_needed = PROCESSES[name]
    rights = documented_rights(process)
    await execute(owner, *(f"{right} TO {ROLE}" for right in rights))
    await verify(lowly)

    for right in rights:
        await execute(owner, f"{right.replace('GRANT', 'REVOKE')} FROM {ROLE}")
        if right in not_needed:
            await verify(lowly)
        else:
            with pytest.raises(SchemaMismatch) as caught:
                await verify(lowly)
            assert str(caught.value) == f"no privilege: {right}"
        await execute(owner, f"{right} TO {ROLE}")
