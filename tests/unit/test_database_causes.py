"""
Each SQLSTATE of Postgres and each result code of SQLite has a cause that was chosen.
"""

import re
import sqlite3
from typing import Any

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError

from outbox.database import sqlite_errors, sqlstates
from outbox.database.errors import cause_of, driver_errors_translated, may_pass, problem_of
from outbox.database.sqlstates import Cause
from outbox.errors import DatabaseUnavailable
from tests.support.builders import LEAK_MARKER

VALUE, STATEMENT, POOLER = Cause.VALUE, Cause.STATEMENT, Cause.POOLER
CONTENTION, SESSION = Cause.CONTENTION, Cause.SESSION
SERVER, UNCERTAIN = Cause.SERVER, Cause.UNCERTAIN

CLASSES = {
    "00": STATEMENT,  # success, a warning or no data, raised by a function
    "01": STATEMENT,
    "02": STATEMENT,
    "03": STATEMENT,
    "08": SESSION,
    "09": STATEMENT,
    "0A": STATEMENT,
    "0B": STATEMENT,
    "0F": STATEMENT,
    "0L": STATEMENT,
    "0P": STATEMENT,
    "0Z": STATEMENT,
    "10": STATEMENT,
    "20": STATEMENT,
    "21": STATEMENT,
    "22": VALUE,
    "23": STATEMENT,
    "24": STATEMENT,
    "25": STATEMENT,
    "26": POOLER,
    "27": STATEMENT,
    "28": SERVER,
    "2B": STATEMENT,
    "2D": STATEMENT,
    "2F": STATEMENT,
    "34": STATEMENT,
    "38": STATEMENT,
    "39": STATEMENT,
    "3B": STATEMENT,
    "3D": STATEMENT,
    "3F": STATEMENT,
    "40": CONTENTION,
    "42": STATEMENT,
    "44": STATEMENT,
    "53": SERVER,
    "54": STATEMENT,
    "55": STATEMENT,
    "57": SESSION,
    "58": SERVER,
    "72": CONTENTION,
    "F0": SERVER,
    "HV": STATEMENT,
    "P0": STATEMENT,
    "XX": SERVER,
}
EXCEPTIONS = {
    "25006": UNCERTAIN,
    "25P03": SESSION,
    "25P04": SESSION,
    "40002": STATEMENT,
    "40003": SESSION,
    "42P05": POOLER,
    "53200": UNCERTAIN,
    "53400": UNCERTAIN,
    "55000": UNCERTAIN,
    "55006": CONTENTION,
    "55P03": CONTENTION,
    "57000": SERVER,
    "57014": CONTENTION,
    "58P01": UNCERTAIN,
    "58P02": UNCERTAIN,
    "58P03": UNCERTAIN,
    "HV000": UNCERTAIN,
    "HV001": UNCERTAIN,
    "HV00L": UNCERTAIN,
    "HV00N": UNCERTAIN,
    "XX000": UNCERTAIN,
}

KNOWN = {
    error.sqlstate
    for error in vars(asyncpg.exceptions).values()
    if isinstance(error, type)
    and issubclass(error, asyncpg.PostgresError)
    and error.sqlstate is not None
}

SQLITE = {
    "ERROR": STATEMENT,
    "INTERNAL": UNCERTAIN,
    "PERM": SERVER,
    "ABORT": UNCERTAIN,
    "BUSY": SERVER,
    "LOCKED": SERVER,
    "NOMEM": UNCERTAIN,
    "READONLY": SERVER,
    "INTERRUPT": UNCERTAIN,
    "IOERR": SERVER,
    "CORRUPT": SERVER,
    "NOTFOUND": STATEMENT,
    "FULL": SERVER,
    "CANTOPEN": SERVER,
    "PROTOCOL": SERVER,
    "EMPTY": STATEMENT,
    "SCHEMA": UNCERTAIN,
    "TOOBIG": VALUE,
    "CONSTRAINT": STATEMENT,
    "MISMATCH": VALUE,
    "MISUSE": STATEMENT,
    "NOLFS": SERVER,
    "AUTH": STATEMENT,
    "FORMAT": STATEMENT,
    "RANGE": STATEMENT,
    "NOTADB": SERVER,
    "NOTICE": STATEMENT,
    "WARNING": STATEMENT,
}
EXTENDED = re.compile(rf"SQLITE_({'|'.join(SQLITE)})(_[A-Z_0-9]+)?$")


def of_postgres(state: str) -> DBAPIError:
    error: Any = Exception(LEAK_MARKER)
    error.sqlstate = state
    return DBAPIError(None, None, error)


def of_sqlite(code: int, name: str = "SQLITE_CODE") -> DBAPIError:
    error = sqlite3.OperationalError(LEAK_MARKER)
    error.sqlite_errorcode, error.sqlite_errorname = code, name
    return DBAPIError(None, None, error)


def test_each_sqlstate_has_the_cause_of_its_class_or_its_own():
    assert len(KNOWN) > 250

    undecided = {state for state in KNOWN if state[:2] not in CLASSES}
    wrong = {
        state: cause
        for state in KNOWN | EXCEPTIONS.keys()
        if (cause := cause_of(of_postgres(state)))
        is not EXCEPTIONS.get(state, CLASSES.get(state[:2]))
    }

    assert undecided == set()
    assert wrong == {}


@pytest.mark.parametrize("state", ["AB123", "U0001", "P0999"])
def test_a_state_that_a_trigger_of_the_application_made_up_is_no_fault_of_the_server(state):
    assert cause_of(of_postgres(state)) is STATEMENT
    assert not may_pass(of_postgres(state))


def test_a_statement_of_the_process_is_repeated_for_every_state_and_only_the_state_is_shown():
    for state in KNOWN | {"AB123"}:
        with pytest.raises(DatabaseUnavailable) as caught, driver_errors_translated():
            raise of_postgres(state)

        assert state in str(caught.value)
        assert len(str(caught.value)) > len(f"Exception {state}") + 10
        assert LEAK_MARKER not in str(caught.value)
        assert caught.value.__cause__ is None


def test_a_lost_connection_without_a_state_is_shown_in_words():
    lost = DBAPIError(None, None, Exception(LEAK_MARKER), connection_invalidated=True)

    assert problem_of(lost) == "the database: the connection was lost (Exception)"


def test_each_result_code_of_sqlite_has_the_cause_of_its_primary_code():
    codes = {
        name: (found[1], code)
        for name, code in vars(sqlite3).items()
        if (found := EXTENDED.match(name)) and isinstance(code, int)
    }
    extended = {name for name, (_, code) in codes.items() if code > 0xFF}
    primary = {primary for primary, code in codes.values() if code <= 0xFF}

    assert primary == SQLITE.keys()
    assert len(extended) > 40
    for name, (primary_name, code) in codes.items():
        if name.startswith(("SQLITE_IGNORE", "SQLITE_LIMIT")):
            continue
        assert cause_of(of_sqlite(code)) is SQLITE[primary_name], name
        assert sqlite_errors.meaning(code)


def test_a_statement_of_the_process_is_repeated_for_every_code_of_sqlite():
    for name in SQLITE:
        code = getattr(sqlite3, f"SQLITE_{name}")
        with pytest.raises(DatabaseUnavailable, match=name) as caught, driver_errors_translated():
            raise of_sqlite(code, f"SQLITE_{name}")

        assert LEAK_MARKER not in str(caught.value)


def test_a_meaning_names_the_remedy_of_a_schema_that_lacks_a_table():
    assert "relay migrate" in sqlstates.meaning("42P01")
    assert "relay migrate" in sqlite_errors.meaning(sqlite3.SQLITE_ERROR)
