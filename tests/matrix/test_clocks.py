"""
Row F21: the wall clock of a relay or a consumer jumps.

Stored times come from the database, and waits use a monotonic clock. So the wall clock of a
process affects only its log and its metrics.
"""

import json
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from tests.support.checked_deployment import CheckedDeployment
from tests.support.clock import WallClock
from tests.support.eventually import eventually
from tests.support.processes import ChildProcess

pytestmark = [pytest.mark.fault, pytest.mark.selection]

HOUR = timedelta(hours=1)
AFTER_SECONDS = 1.5
"""The preloaded library reads the setting once a second."""


def has_jumped(process: ChildProcess, ahead: timedelta) -> bool:
    """Whether the last complete log line of *process* has a timestamp that is *ahead*."""
    lines = process.output.rpartition("\n")[0].splitlines()
    last = json.loads(next(line for line in reversed(lines) if line.startswith("{")))
    remote = datetime.fromisoformat(last["timestamp"]) - datetime.now(UTC)
    return abs(remote - ahead) < HOUR / 4


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["forwards", "backwards"])
async def test_a_clock_that_jumps_by_an_hour_makes_no_difference(
    postgres_url, rabbitmq_url, tmp_path, ahead
):
    """F21: one hour forwards or backwards and back again, on relay and consumer."""
    clock = WallClock(tmp_path / "clock")
    settings = {"MQ_LOG_LEVEL": "debug"}
    async with CheckedDeployment(
        postgres_url, rabbitmq_url, tmp_path, preload=clock.environment, **settings
    ) as deployment:
        await deployment.start_processes()
        async with deployment.under_load():
            for jump in (ahead, timedelta(0)):
                with deployment.record_fault("clock set"):
                    clock.set(jump)
                    await deployment.wait(AFTER_SECONDS)
                await deployment.makes_progress()
                for process in deployment.processes if jump else ():
                    # One that has nothing to do right now logs nothing, and works on soon.
                    await eventually(partial(has_jumped, process, jump), within=30)
        await deployment.wait_until_settled()

        await deployment.check_guarantees(progress_seconds=15)
