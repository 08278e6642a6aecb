"""
Row F28: two SQLite files, and four processes of which one is killed again and again.
"""

import random
from pathlib import Path

import pytest

from tests.support.checked_deployment import CheckedDeployment
from tests.support.integrity import is_sound

pytestmark = [pytest.mark.fault, pytest.mark.selection]

KILLS = 24
MOST_BETWEEN = 0.4
"""Seconds. Commits take a few milliseconds, and come one after another."""


async def test_processes_killed_during_commits_leave_intact_sqlite_files_and_lose_no_event(
    sqlite_url, embedded_broker_url, tmp_path
):
    """F28: kill -9 in commit, 4 processes."""
    jitter = random.Random(28)
    async with CheckedDeployment(sqlite_url, embedded_broker_url, tmp_path) as deployment:
        supervisor = [
            await deployment.consumer(),
            await deployment.consumer(),
            await deployment.relay(),
            await deployment.relay(),
        ]
        async with deployment.under_load():
            for _ in range(KILLS):
                await deployment.wait(jitter.uniform(0, MOST_BETWEEN))
                victim = jitter.choice(supervisor)
                with deployment.record_fault("killed"):
                    victim.kill()
                    victim.start()
            await deployment.makes_progress()
        await deployment.wait_until_settled()

        await deployment.check_guarantees()
    assert is_sound(tmp_path / "outbox.db")
    assert is_sound(Path(embedded_broker_url.removeprefix("sqlite:///")))
