"""
Random schedules of faults: the checker finds no error, and a seed repeats its trace.
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


def test_a_seed_has_the_same_trace_in_another_process_and_another_seed_has_not(database_files):
    command = [sys.executable, "-m", "tests.reliability.simulation", "--seeds", "3", "--trace"]

    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    here, other = (run(database_files, seed=seed).trace for seed in (3, 4))

    assert len(here) > 100
    assert printed.splitlines()[:-2] == "\n".join(here).splitlines()
    assert here != other
