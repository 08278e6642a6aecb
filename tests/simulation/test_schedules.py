"""
Random schedules of faults: the checker finds no error, and a seed repeats its trace.
"""

import functools
import subprocess
import sys

import pytest

from tests.reliability.simulation.program import run

SEEDS = range(1, 13)


@pytest.fixture(scope="session")
def outcome_of(database_files):
    """Give a function that returns the outcome of a seed, which it runs once."""
    return functools.cache(lambda seed: run(database_files, seed=seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_no_event_is_lost_or_applied_twice_under_a_random_schedule(outcome_of, seed):
    outcome = outcome_of(seed)

    assert outcome.findings == [], f"seed {seed}, {outcome.plan}"
    assert outcome.events


def test_a_seed_has_the_same_trace_in_another_process_and_another_seed_has_not(outcome_of):
    command = [sys.executable, "-m", "tests.reliability.simulation", "--seeds", "3", "--trace"]

    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    here, other = (outcome_of(seed).trace for seed in (3, 4))

    assert len(here) > 100
    assert printed.splitlines()[:-2] == "\n".join(here).splitlines()
    assert here != other
