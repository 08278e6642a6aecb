"""
Row F28: two SQLite files, and four processes of which one is killed again and again.
"""

from pathlib import Path

import pytest

from tests.support.checked_deployment import CheckedDeployment
from tests.support.integrity import is_sound
from tests.support.process_kills import survive_kills

pytestmark = [pytest.mark.fault, pytest.mark.selection]

KILLS = 24
MOST_BETWEEN = 0.4
"""Seconds. Commits take a few milliseconds, and come one after another."""


async def test_processes_killed_during_commits_leave_intact_sqlite_files_and_lose_no_event(
    sqlite_url, embedded_broker_url, tmp_path
):
    """F28: kill -9 in commit, 4 processes."""
    async with CheckedDeployment(sqlite_url, embedded_broker_url, tmp_path) as deployment:
        await survive_kills(deployment, kills=KILLS, most_between=MOST_BETWEEN, seed=28)
    assert is_sound(tmp_path / "outbox.db")
    assert is_sound(Path(embedded_broker_url.removeprefix("sqlite:///")))
