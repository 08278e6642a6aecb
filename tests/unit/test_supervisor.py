"""
Which exits of processes a run allows.
"""

import signal

import pytest

from outbox.runtime.service import ExitCode
from tests.reliability.supervisor import is_explained

KILLED = -signal.SIGKILL


@pytest.mark.parametrize(
    ("status", "has_worked", "was_killed", "explained"),
    [
        (KILLED, True, True, True),
        (KILLED, True, False, False),
        (ExitCode.UNREACHABLE, False, False, True),
        (ExitCode.UNREACHABLE, True, False, False),
        (ExitCode.STOPPED, True, False, False),
        (ExitCode.CRASHED, False, True, False),
        (ExitCode.BAD_CONFIGURATION, False, False, False),
    ],
)
def test_only_our_kill_or_a_server_unreachable_at_the_start_explains_an_exit(
    status, has_worked, was_killed, explained
):
    assert is_explained(status, has_worked=has_worked, was_killed=was_killed) is explained
