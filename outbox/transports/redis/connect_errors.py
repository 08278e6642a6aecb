"""
Errors of Redis and of its client as BrokerUnavailable, in words for an operator.

The texts of the server are read for their code and dropped: they quote users, commands and keys.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from redis import exceptions

from outbox.certificate_expiry import client_problem
from outbox.errors import BrokerUnavailable
from outbox.network_errors import CLOSED, blames_client, kind_of

_REFUSALS = {
    "WRONGPASS": "the server refuses user or password",
    "NOAUTH": "the server demands a password",
    "NOPERM": "the user lacks a right: grant it with ACL SETUSER",
    "DENIED": "the server is in protected mode, and serves its own host only: give it a password",
}
"""By the code of the server; a refusal stays until a person acts."""

_PROBLEMS = {
    "READONLY": "the server is a replica, and takes no writes",
    "LOADING": "the server is loading its data",
    "MASTERDOWN": "the server is a replica that has lost its primary",
    "MOVED": "the cluster has moved the keys to another node",
    "ASK": "the cluster is moving the keys to another node",
    "TRYAGAIN": "the cluster is moving the keys to another node",
    "CLUSTERDOWN": "the cluster is down",
    "CROSSSLOT": "the server is a cluster: add ?cluster=true",
    "OOM": "the server's memory is full: raise maxmemory, or let consumers catch up",
    "MISCONF": "the server cannot write to its disk: its log names the reason",
    "NOREPLICAS": "the server has fewer replicas than min-replicas-to-write",
    "BUSY": "the server is running a script for too long",
    "UNKILLABLE": "the server is running a script for too long",
}
"""By the code of the server; each of these passes."""

_TEXTS = {
    "max number of clients reached": ("the server has no free connection: see maxclients", False),
    "DB index is out of range": ("the server has no database of this number", True),
    "invalid DB index": ("the server has no database of this number", True),
    "SELECT is not allowed in cluster mode": (_PROBLEMS["CROSSSLOT"], True),
    "cluster support disabled": ("the server is no cluster: remove cluster=true", True),
    "unknown command": ("the server is too old, or the URL names a server of another kind", True),
    "ACL failure in script": (_REFUSALS["NOPERM"], True),
    "The user executing the script": (_REFUSALS["NOPERM"], True),
    "without any password configured": (
        "the server has no password for this user: remove it from the URL",
        True,
    ),
    "invalid password": (_REFUSALS["WRONGPASS"], True),
    "Invalid Username or Password": (_REFUSALS["WRONGPASS"], True),
}
"""By a part of the server's text, for replies with the code ERR: the reason, and if it stays."""

_CODE = re.compile(r"[A-Z]{2,20}\b")
_CLOSED_PLAIN = (
    f"{CLOSED}, as a port of TLS or of another protocol does: for one with TLS use rediss"
)
_CLOSED_TLS = (
    f"{CLOSED}, as one that demands a certificate of the client does: check certfile and keyfile"
)
_SILENT_TLS = "no answer in time, as from a port that does not speak TLS"

SETTING = "MQ_BROKER_URL: "
"""The beginning of an error of a connection, which names its address itself."""

ERRORS = (
    exceptions.RedisError,
    exceptions.RedisClusterException,
    OSError,
    TimeoutError,
    EOFError,
)
"""What a call of the client raises for a server that is unavailable, or refuses the work."""


@contextmanager
def redis_errors(
    problem: str = "MQ_BROKER_URL: the connection was lost", *, encrypted: bool = False
) -> Iterator[None]:
    """
    Turn errors of the client into BrokerUnavailable, whose text begins with *problem*.

    *encrypted* says whether the connection uses TLS.
    """
    try:
        yield
    except ERRORS as error:
        raise unavailable(error, problem, encrypted=encrypted) from None


def unavailable(
    error: BaseException, problem: str, *, encrypted: bool = False
) -> BrokerUnavailable:
    """Return *error* of the client as BrokerUnavailable, whose text begins with *problem*."""
    causes = list(_chain(error))
    for cause in causes:
        if isinstance(cause, BrokerUnavailable):  # the client wraps what a connection has raised
            return BrokerUnavailable(f"{SETTING}{cause}", refused=cause.refused)
    reason, refused = _reason(causes, encrypted=encrypted)
    return BrokerUnavailable(f"{problem}: {reason}", refused=refused)


def code_of(error: exceptions.RedisError) -> str:
    """Return the code that begins the reply of the server, such as NOPERM; ERR for others."""
    found = error.status_code or _first_word(str(error))
    return found if found in _REFUSALS or found in _PROBLEMS else "ERR"


def _reason(causes: list[BaseException], *, encrypted: bool) -> tuple[str, bool]:
    for cause in causes:
        if isinstance(cause, exceptions.RedisError) and (found := _of_reply(cause)) is not None:
            return found
        if isinstance(cause, exceptions.TimeoutError | TimeoutError):
            return _SILENT_TLS if encrypted else "no answer in time", False
        if isinstance(cause, exceptions.InvalidResponse):
            return "the port does not speak the protocol of Redis", False
        if (kind := kind_of(cause)) is not None:
            return _of_network(kind, encrypted=encrypted), False
    if isinstance(causes[0], exceptions.ConnectionError):
        return _of_network(CLOSED, encrypted=encrypted), False
    return f"the server refuses a command ({type(causes[0]).__name__})", False


def _of_reply(error: exceptions.RedisError) -> tuple[str, bool] | None:
    """Return the reason that the reply of the server gives; None if *error* is no such reply."""
    code, text = code_of(error), str(error)
    if code in _REFUSALS:
        return _REFUSALS[code], True
    if code in _PROBLEMS:
        return _PROBLEMS[code], False
    return next((found for part, found in _TEXTS.items() if part in text), None)


def _of_network(kind: str, *, encrypted: bool) -> str:
    """
    Return the reason for a failure of this *kind* in the network.

    With TLS 1.3 a server refuses the client's certificate only when the client has done its part,
    and its reason may not arrive before the end of the connection.
    """
    if not encrypted:
        return _CLOSED_PLAIN if kind == CLOSED else kind
    found = client_problem("broker", datetime.now(UTC)) if blames_client(kind) else None
    return found or (_CLOSED_TLS if kind == CLOSED else kind)


def _first_word(text: str) -> str:
    found = _CODE.match(text)
    return found[0] if found else ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """
    The *error* and what it was raised for, the outermost first.

    The client raises its own errors while it handles one of the network, which it does not name
    as their cause.
    """
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        seen.append(following)
        yield following
        following = following.__cause__ or following.__context__
