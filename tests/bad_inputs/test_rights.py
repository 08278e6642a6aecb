"""
Users of Postgres without the rights that a process needs.
"""

import re
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from consumer import Consumer, checks
from consumer.replies import replies
from outbox.database.engine import create_engine
from outbox.database.verification import Expectation
from outbox.errors import SchemaMismatch
from relay import assembly
from relay.settings import RelaySettings
from relay.storage import ordering_secret
from tests.support import effects, ordered
from tests.support.roles import documented_rights

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


IN_ORDER = {
    f"GRANT {right} ON parked_messages" for right in ("SELECT", "INSERT", "UPDATE", "DELETE")
} | {"GRANT SELECT ON SEQUENCE parked_messages_id_seq"}
OF_PARTITIONS = {
    f"GRANT {right} ON consumer_{table}"
    for right in ("SELECT", "INSERT", "UPDATE", "DELETE")
    for table in ("generations", "partitions", "members")
}
OF_REPLIES = {f"GRANT {right} ON replies" for right in ("SELECT", "INSERT", "UPDATE", "DELETE")}
PROCESSES: dict[str, tuple[str, Expectation, set[str]]] = {
    "relay": ("relay", assembly.expectation(RelaySettings()), set()),
    "consumer": (
        "consumer",
        checks.expectation(effects.consumer, "queue"),
        IN_ORDER | OF_PARTITIONS | OF_REPLIES,
    ),
    "ordered consumer": (
        "consumer",
        checks.expectation(ordered.consumer, "queue"),
        (OF_PARTITIONS - {"GRANT SELECT ON consumer_generations"}) | OF_REPLIES,
    ),
    "consumer with partitions": (
        "consumer",
        checks.expectation(Consumer("a", bindings=["#"], ordered=True, partitions=2), "queue"),
        OF_REPLIES,
    ),
    "consumer of replies": (
        "consumer",
        checks.expectation(replies, "queue"),
        IN_ORDER | OF_PARTITIONS,
    ),
}


async def execute(engine: AsyncEngine, *statements: str) -> None:
    async with engine.begin() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)


@pytest.mark.parametrize("name", PROCESSES)
async def test_a_missing_privilege_is_a_line_with_the_grant_to_run(name, owner, lowly):
    process, expected, not_needed = PROCESSES[name]

    async def verify(engine: AsyncEngine) -> None:
        await expected.verify(engine, register=True)
        if process == "relay":
            await ordering_secret.read(engine)

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
            whole = re.sub(r" \(.*\)", "", right)  # a right on columns may be one on the table
            assert str(caught.value) == f"no privilege: {whole}"
        await execute(owner, f"{right} TO {ROLE}")
