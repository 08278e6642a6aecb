"""
Which statements end a transaction.
"""

import pytest

from consumer.execution.session_guard import ends_transaction


@pytest.mark.parametrize(
    "statement",
    [
        "COMMIT",
        " \n end",
        "/* job */ COMMIT",
        "/* a */-- b\n/* c */ ROLLBACK AND CHAIN",
        "-- job\nCOMMIT",
        "; COMMIT",
        "/* Postgres /* nests */ comments */ COMMIT",
        "/* SQLite /* does not */ COMMIT -- */",
        "/**/abort",
    ],
)
def test_a_statement_that_ends_a_transaction_is_recognised(statement):
    assert ends_transaction(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "",
        "SELECT 1",
        "SELECT 1 -- COMMIT",
        "/* COMMIT */ SELECT 1",
        "-- COMMIT",
        "-- COMMIT\nSELECT 1",
        "/* never closed COMMIT",
        "/* ROLLBACK */ ROLLBACK TO here",
        "ENDPOINT",
        "SAVEPOINT commit",
    ],
)
def test_another_statement_is_not(statement):
    assert not ends_transaction(statement)
