"""
The record of the exchange or queue of each process, while processes run.
"""

import pytest
import sqlalchemy as sa

from outbox.database.verification import Expectation
from outbox.errors import SchemaMismatch
from outbox.tables import outbox_targets
from relay import assembly


def expected(target: str) -> Expectation:
    return Expectation(
        rights=assembly.RIGHTS, source="relay", target=target, refusal="goes to {recorded}"
    )


async def test_a_running_process_records_its_target_again_after_the_record_was_lost(engine):
    """As by a migration down and up again beneath it."""
    running = expected("ours")
    found = await running.verify(engine, register=True)
    async with engine.begin() as connection:
        await connection.execute(sa.delete(outbox_targets))

    await running.verify_again(engine, found, register=True)

    async with engine.connect() as connection:
        rows = await connection.execute(sa.select(outbox_targets.c["source", "target"]))
        recorded = rows.all()
    assert recorded == [("relay", "ours")]
    with pytest.raises(SchemaMismatch, match="goes to ours"):
        await expected("theirs").verify_again(engine, found, register=True)


async def test_a_check_records_no_target(engine):
    found = await expected("ours").verify(engine)
    await expected("ours").verify_again(engine, found)

    async with engine.connect() as connection:
        assert (await connection.execute(sa.select(outbox_targets))).all() == []
