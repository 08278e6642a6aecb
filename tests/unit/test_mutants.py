"""
The deliberate faults fit the product as it is.
"""

import ast

import pytest

from reliability.mutation.mutants import MUTANTS, Suite
from reliability.mutation.trial import PROJECT, mutated


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_replaces_one_place_and_can_be_read_as_python(mutant):
    ast.parse(mutated(mutant, (PROJECT / mutant.file).read_text()))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_tests_that_catch_a_mutant_exist(mutant):
    if isinstance(mutant.trial, Suite):
        for node in mutant.trial.nodes:
            assert (PROJECT / node.split("::")[0]).is_file()


def test_mutants_have_names_of_their_own():
    names = [mutant.name for mutant in MUTANTS]

    assert len(set(names)) == len(names) >= 8
