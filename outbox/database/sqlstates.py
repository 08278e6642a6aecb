"""
The cause of each SQLSTATE of Postgres, and its meaning in plain words.

The longest prefix of a state that a table contains decides: the state itself, or its class. The
states of other classes are made by functions and triggers of the application.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import TypeVar

Value = TypeVar("Value")


class Cause(Enum):
    """
    Why a database refused a statement.

    | cause      | a statement of relay or consumer | a statement of a handler |
    |------------|----------------------------------|--------------------------|
    | CONTENTION | is repeated                      | is repeated a few times  |
    | SESSION    | is repeated                      | is repeated a few times  |
    | UNCERTAIN  | is repeated                      | is repeated a few times  |
    | SERVER     | is repeated                      | is repeated              |
    | POOLER     | is repeated                      | is repeated a few times  |
    | VALUE      | is repeated; the record of a message has failed | has failed |
    | STATEMENT  | is repeated                      | has failed               |
    """

    CONTENTION = auto()
    """Another transaction was in the way, or changed the schema under a prepared statement."""
    SESSION = auto()
    """The session ended; a handler that works for too long loses its session too."""
    SERVER = auto()
    """The server has no room, is damaged, or was stopped or restricted by an operator."""
    UNCERTAIN = auto()
    """The server, or the statement."""
    POOLER = auto()
    """The session has lost its prepared statements, as behind a connection pooler."""
    VALUE = auto()
    """A value does not fit."""
    STATEMENT = auto()
    """The statement, a row that breaks a constraint, a privilege, or the schema."""


_CAUSES: Mapping[str, Cause] = {
    "08": Cause.SESSION,
    "22": Cause.VALUE,
    "25006": Cause.UNCERTAIN,  # a standby, or a transaction that the handler made read-only
    "25P03": Cause.SESSION,
    "25P04": Cause.SESSION,
    "26": Cause.POOLER,
    "28": Cause.SERVER,
    "40": Cause.CONTENTION,
    "40002": Cause.STATEMENT,  # a deferred constraint
    "40003": Cause.SESSION,
    "42P05": Cause.POOLER,
    "53": Cause.SERVER,
    "53200": Cause.UNCERTAIN,  # memory for all, or too many locks or rows of one statement
    "53400": Cause.UNCERTAIN,  # for example temp_file_limit
    "55": Cause.STATEMENT,
    "55000": Cause.UNCERTAIN,  # no connections allowed; also sequences and replica identities
    "55006": Cause.CONTENTION,
    "55P03": Cause.CONTENTION,
    "57": Cause.SESSION,
    "57000": Cause.SERVER,
    "57014": Cause.CONTENTION,
    "58": Cause.SERVER,
    "58P": Cause.UNCERTAIN,  # files of the server, or those that a statement names
    "72": Cause.CONTENTION,  # the snapshot was too old; up to Postgres 16
    "F0": Cause.SERVER,
    "HV000": Cause.UNCERTAIN,  # the foreign server may be unavailable
    "HV001": Cause.UNCERTAIN,
    "HV00L": Cause.UNCERTAIN,
    "HV00N": Cause.UNCERTAIN,
    "XX": Cause.SERVER,
    "XX000": Cause.UNCERTAIN,  # extensions use it for values that they cannot read
}

_OBJECT = "a table, column or function is missing or different: run `relay migrate`"
_POOLER = (
    "MQ_DATABASE_URL: prepared statements are lost between transactions, as behind a connection"
    " pooler: add ?pgbouncer=1"
)

_MEANINGS: Mapping[str, str] = {
    "": "the database refuses a statement",
    "08": "the connection to the database failed",
    "0A": "the database does not support a statement",
    "22": "the database refuses a value",
    "23": "a constraint of the database refuses a row",
    "25006": "the database is read-only, as a standby is",
    "25P02": "an earlier statement of the transaction failed",
    "25P03": "the database ended an idle transaction",
    "25P04": "the database ended a transaction that took too long",
    "26": _POOLER,
    "28": "the database refuses user or password",
    "3D": "the database does not exist",
    "3F": "the schema does not exist",
    "40": "another transaction was in the way",
    "42": "the database refuses a statement",
    "42501": "the database user lacks a privilege",
    "42P01": _OBJECT,
    "42703": _OBJECT,
    "42704": _OBJECT,
    "42804": _OBJECT,
    "42883": _OBJECT,
    "42P05": _POOLER,
    "42P10": _OBJECT,
    "53": "the database has no room",
    "53100": "the disk of the database is full",
    "53200": "the database has no memory left",
    "53300": "the database has no free connection",
    "53400": "a limit of the database is reached",
    "54": "a statement is too large for the database",
    "55": "the database is not in a state that allows this",
    "55000": "the database does not accept connections, or is not in a state that allows this",
    "55P03": "another transaction holds a lock",
    "57": "an operator stopped the session",
    "57014": "a statement took too long, or an operator cancelled it",
    "57P01": "the database shuts down, or an operator ended the session",
    "57P02": "the database restarts after a crash",
    "57P03": "the database starts up or shuts down",
    "57P04": "the database was dropped",
    "57P05": "the database ended an idle session",
    "58": "the disk or the files of the database fail",
    "F0": "the configuration of the database server is wrong",
    "HV": "a foreign server of the database fails",
    "P0": "a function or trigger of the database refuses a statement",
    "XX": "the database failed internally",
    "XX001": "the files of the database are damaged",
    "XX002": "an index of the database is damaged: REINDEX it",
}


def cause(state: str) -> Cause:
    """Return the cause of the SQLSTATE *state*; STATEMENT if it is no state of Postgres."""
    return _of_longest_prefix(_CAUSES, state, Cause.STATEMENT)


def meaning(state: str) -> str:
    """Return the meaning of the SQLSTATE *state*, as a clause for people."""
    return _of_longest_prefix(_MEANINGS, state, _MEANINGS[""])


def _of_longest_prefix(table: Mapping[str, Value], state: str, default: Value) -> Value:
    for length in (5, 3, 2):
        if (found := table.get(state[:length])) is not None:
            return found
    return default
