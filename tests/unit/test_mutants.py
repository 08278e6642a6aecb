"""
Every mutant applies to the current product.
"""

import ast

import pytest

from tests.reliability.mutation.mutants import MUTANTS, Schedules, Suite
from tests.reliability.mutation.program import without_faults
from tests.reliability.mutation.runner import PROJECT, found_by, mutated


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_replaces_one_place_and_can_be_read_as_python(mutant):
    ast.parse(mutated(mutant, (PROJECT / mutant.file).read_text()))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_tests_that_catch_a_mutant_exist(mutant):
    if isinstance(mutant.check, Suite):
        for node in mutant.check.nodes:
            assert (PROJECT / node.split("::")[0]).is_file()


def test_every_mutant_has_its_own_name():
    names = [mutant.name for mutant in MUTANTS]

    assert len(set(names)) == len(names) >= 8


def test_every_check_of_a_mutant_passes_on_the_unchanged_product():
    of_mutants = {mutant.check for mutant in MUTANTS if isinstance(mutant.check, Suite)}

    assert set(without_faults(MUTANTS)) == {Schedules(), *of_mutants}
    assert without_faults([]) == [Schedules()]


def test_a_failing_test_catches_a_mutant_and_a_test_that_cannot_run_does_not():
    check = Suite(("tests/a.py",))

    assert found_by(check, "FAILED tests/a.py::test_b - AssertionError\n") == "`test_b`"
    assert found_by(check, "ERROR tests/a.py::test_b - OSError\n") is None
