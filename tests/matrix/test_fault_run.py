"""
A run without faults has no findings, and a manipulated run has all of them.
"""

from uuid import uuid4

import pytest
import sqlalchemy as sa

from outbox.tables import dead_letters
from tests.reliability.consumers import FAILS_ALWAYS
from tests.reliability.fault_run import FaultRun
from tests.reliability.figures import figures
from tests.reliability.guarantees import FindingsError, default_guarantees
from tests.reliability.history import read
from tests.reliability.roles import UNHURRIED
from tests.reliability.tables import effects, uploads
from tests.support.builders import LEAK_MARKER

pytestmark = pytest.mark.selection


async def test_a_run_without_faults_keeps_all_guarantees_and_sends_no_event_twice(
    environment, tmp_path
):
    guarantees = default_guarantees("free", "ordered", duplicates=0)
    async with FaultRun(environment, tmp_path, guarantees=guarantees, **UNHURRIED) as run:
        await run.makes_progress(300)

    counted = figures(read(run.history.path))
    assert counted.events >= 100
    assert counted.sent == counted.events
    assert counted.waiting == 0


async def test_the_checker_finds_each_manipulation_of_the_tables(environment, tmp_path):
    run = FaultRun(environment, tmp_path, relays=1, consumers=1, drain_seconds=15)
    with pytest.raises(FindingsError) as broken:
        await tampered(run)

    found = {finding.rule for finding in broken.value.findings}
    assert found >= {"lost", "ghost", "twice", "reason", "leak", "leftover"}
    assert "1 effects of attempts that failed" in {each.text for each in broken.value.findings}


async def tampered(run: FaultRun) -> None:
    """Run *run*, and change its tables as a faulty product would."""
    async with run:
        await run.makes_progress(20)
        async with run.engine.begin() as connection:
            rows = (await connection.execute(sa.select(effects).order_by(effects.c.id))).all()
            first, second = rows[:2]
            await connection.execute(sa.delete(effects).where(effects.c.id == first.id))
            failed = uuid4()
            for event_id, consumer in ((second.event_id, second.consumer), (failed, "free")):
                again = {"event_id": event_id, "consumer": consumer, "attempt": 1}
                await connection.execute(sa.insert(effects).values(again))
            counted = {"event_id": failed, "type": FAILS_ALWAYS}
            await connection.execute(sa.insert(uploads).values(counted))
            letter = {"source": "free", "reason": LEAK_MARKER, "attempts": 1, "body": b""}
            await connection.execute(sa.insert(dead_letters).values(letter))
