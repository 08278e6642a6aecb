"""
The URLs of key databases, which follow the rules of MQ_DATABASE_URL.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import URL

from outbox.postgres_server import server_of
from outbox.url_checks import check_database, database_url


def key_database_url(text: str, *, setting: str) -> URL:
    """Return *text*, the URL of a key database in *setting*, parsed; raises ValueError."""
    with _named(setting):
        return database_url(text)


def check_key_database(url: URL, *, setting: str, allow_insecure: bool) -> None:
    """Raise ValueError if the process must not connect to the key database at *url*."""
    with _named(setting):
        check_database(url, allow_insecure=allow_insecure)


def is_same_database(one: URL, other: URL) -> bool:
    """Return whether two checked URLs name one database, as far as their texts show it."""
    if one.get_backend_name() != other.get_backend_name():
        return False
    if one.get_backend_name() == "sqlite":
        return Path(one.database or "").resolve() == Path(other.database or "").resolve()
    first, second = server_of(one, os.environ), server_of(other, os.environ)
    is_one_server = not set(first.addresses).isdisjoint(second.addresses)
    return is_one_server and first.database == second.database


@contextmanager
def _named(setting: str) -> Iterator[None]:
    """Raise the ValueErrors of this block, which begin with MQ_DATABASE_URL, for *setting*."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace("MQ_DATABASE_URL", setting, 1)) from None
