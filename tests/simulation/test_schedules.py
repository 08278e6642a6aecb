"""
Random schedules of faults: nothing is found, and each seed tells the same story each time.
"""

import subprocess
import sys

import pytest

from tests.reliability.simulation.program import run

SEEDS = range(1, 13)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_event_is_lost_or_applied_twice_under_a_random_schedule(database_files, seed):
    outcome = run(database_files, seed=seed)

    assert outcome.findings == [], f"seed {seed}, {outcome.plan}"
    assert outcome.events


def test_two_runs_of_a_seed_have_equal_traces(database_files):
    first, other, second = (run(database_files, seed=seed) for seed in (7, 8, 7))

    assert first.trace == second.trace
    assert first.trace != other.trace


def test_the_command_prints_the_same_trace_in_another_process():
    command = [sys.executable, "-m", "tests.reliability.simulation", "--seeds", "3", "--trace"]

    stories = [
        subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    ]

    first, second = (story.splitlines()[:-1] for story in stories)
    assert len(first) > 100
    assert first == second
