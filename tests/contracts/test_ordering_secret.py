"""
The ordering secret, in both databases.
"""

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database.engine import create_engine
from outbox.errors import SchemaMismatch
from outbox.tables import ordering_secret
from relay.storage import ordering_secret as secret


async def replace_by(engine: AsyncEngine, *secrets: bytes) -> None:
    async with engine.begin() as connection:
        await connection.execute(sa.delete(ordering_secret))
        for value in secrets:
            await connection.execute(sa.insert(ordering_secret).values(secret=value))


async def test_all_relays_of_a_database_read_the_same_secret(engine):
    first = await secret.read(engine)

    assert len(first) == 32
    assert await secret.read(engine) == first


@pytest.mark.parametrize("length", [16, 64])
async def test_a_secret_may_be_replaced(engine, length):
    await replace_by(engine, bytes(length))

    assert await secret.read(engine) == bytes(length)


@pytest.mark.parametrize(
    ("secrets", "message"),
    [
        pytest.param([], "one row", id="none"),
        pytest.param([b""], "16 to 64 bytes", id="empty"),
        pytest.param([b"s" * 15], "16 to 64 bytes", id="short"),
        pytest.param([b"s" * 65], "16 to 64 bytes", id="long"),
    ],
)
async def test_an_invalid_secret_is_refused_and_not_shown(engine, secrets, message):
    await replace_by(engine, *secrets)

    with pytest.raises(SchemaMismatch, match=message) as caught:
        await secret.read(engine)

    assert "ordering_secret" in str(caught.value)
    assert "sss" not in str(caught.value)


async def test_a_second_secret_is_refused_by_the_database(engine):
    with pytest.raises(sa.exc.IntegrityError):
        async with engine.begin() as connection:
            await connection.execute(sa.insert(ordering_secret).values(secret=bytes(32)))


async def test_a_role_without_select_on_the_secret_gets_the_grant_to_run(postgres_url):
    engine = create_engine(make_url(postgres_url), pool_size=1, application_name="test")
    # A role that exists on every server and may read no table.
    sa.event.listen(
        engine.sync_engine, "begin", lambda c: c.exec_driver_sql("SET LOCAL ROLE pg_monitor")
    )

    with pytest.raises(SchemaMismatch, match="GRANT SELECT ON ordering_secret"):
        await secret.read(engine)
    await engine.dispose()
