"""
A producer's connection to a key database, each call of which ends in a limited time.

A call runs in a thread of its own, so that a server that does not answer cannot block the producer
longer. A process that was forked has a connection of its own.
"""

import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import NoReturn

import sqlalchemy as sa
from sqlalchemy.engine import URL

from outbox.encryption.key_drivers import Answer, Session, Work, session
from outbox.encryption.keys import KeysUnavailable
from outbox.errors import ConfigurationError, OutboxError
from outbox.key_database_url import check_key_database, key_database_url

CALL_SECONDS = 5.0
"""The longest time of a call."""

_TRUE = {"1", "true", "yes", "on", "t", "y"}
_MEANINGS = {
    "42P01": "the tables of keys are missing: run `relay keys init`",
    "42501": "the database user lacks a privilege: see deploy/postgres/key_roles.sql",
    "25006": "the key database is read-only, as a standby is",
}


def checked_url(text: str, *, setting: str, allow_insecure: bool) -> URL:
    """Return the URL of a key database; raises ConfigurationError that begins with *setting*."""
    try:
        url = key_database_url(text.strip(), setting=setting)
        check_key_database(url, setting=setting, allow_insecure=allow_insecure)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    return url


class KeyConnection:
    """
    A connection to the key database of *text*, made by the first call, for all threads.

    *setting* begins each error, and names the setting of the URL. Raises ConfigurationError.
    """

    def __init__(
        self,
        text: str,
        *,
        setting: str,
        environment: Mapping[str, str] = os.environ,
        seconds: float | None = None,
    ) -> None:
        insecure = environment.get("MQ_ALLOW_INSECURE", "").strip().lower() in _TRUE
        self._url = checked_url(text, setting=setting, allow_insecure=insecure)
        self._setting = setting
        self._seconds = seconds or CALL_SECONDS
        self._lock = threading.Lock()
        self._session: Session | None = self._new_session()
        _connections.add(self)

    def run(self, work: Work[Answer]) -> Answer:
        """
        Return the answer of *work*, each of whose statements is its own transaction.

        It is called again if the connection was lost. Raises KeysUnavailable, at the latest after
        CALL_SECONDS.
        """
        deadline = time.monotonic() + self._seconds
        lock = self._lock
        if not lock.acquire(timeout=self._seconds):
            self._fail_late()
        if self._session is None:
            self._session = self._new_session()
        answer: Future[Answer] = Future()
        # Daemons, which the end of the process does not wait for.
        threading.Thread(
            target=_answer, args=(self._session, work, answer, lock), daemon=True
        ).start()
        try:
            answer.exception(max(0.0, deadline - time.monotonic()))
        except FutureTimeoutError:
            if not answer.cancel():  # it has just ended
                return self._ended(answer)
            self._abandon(lock)
            self._fail_late()
        return self._ended(answer)

    def close(self) -> None:
        """Close the connection; the next call makes another one."""
        with self._lock:
            found, self._session = self._session, None
        if found is not None:
            thread = threading.Thread(target=found.close, daemon=True)
            thread.start()
            thread.join(self._seconds)

    def forget(self) -> None:
        """Use another connection from now on, and never touch this one: it is the parent's."""
        if self._session is not None:
            _abandoned.append(self._session)
        self._session, self._lock = None, threading.Lock()

    def _new_session(self) -> Session:
        try:
            return session(self._url, setting=self._setting, statement_seconds=self._seconds)
        except ValueError as error:
            text = str(error).replace("MQ_DATABASE_URL", self._setting)
            raise ConfigurationError(text) from None

    def _abandon(self, lock: threading.Lock) -> None:
        # The thread still holds this lock and this session; it ends when its server answers.
        if self._lock is lock:
            self._session, self._lock = None, threading.Lock()

    def _fail_late(self) -> NoReturn:
        raise KeysUnavailable(
            f"{self._setting}: the key database did not answer within {self._seconds:g} seconds"
        )

    def _ended(self, answer: Future[Answer]) -> Answer:
        """The answer; raises the errors of drivers, which have no common class, in our words."""
        error = answer.exception()
        if error is None:
            return answer.result()
        if isinstance(error, OutboxError):
            raise error
        raise _translated(self._setting, error) from None


def _answer(
    used: Session, work: Work[Answer], answer: Future[Answer], lock: threading.Lock
) -> None:
    failure: BaseException | None = None
    try:
        try:
            found = used.run(work)
        except sa.exc.DBAPIError as error:
            if not error.connection_invalidated:
                raise
            found = used.run(work)
    except BaseException as error:  # noqa: BLE001 - raised in the thread of the caller
        failure = error
    lock.release()
    try:
        if failure is None:
            answer.set_result(found)
        else:
            answer.set_exception(failure)
    except InvalidStateError:  # the caller has stopped waiting, and uses another session
        with suppress(Exception):
            used.close()


def _translated(setting: str, error: BaseException | None) -> KeysUnavailable:
    """The error in our words: drivers quote rows and addresses in theirs."""
    cause = getattr(error, "orig", None) or error
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    words = _MEANINGS.get(state or "", "the key database cannot be used")
    if "no such table" in str(cause):
        words = _MEANINGS["42P01"]
    name = type(cause).__name__ + (f" {state}" if state else "")
    return KeysUnavailable(f"{setting}: {words} ({name})", refused=state in _MEANINGS)


_connections: "weakref.WeakSet[KeyConnection]" = weakref.WeakSet()
_abandoned: list[Session] = []


def _forget_all() -> None:
    for connection in list(_connections):
        connection.forget()


_forks: Callable[..., None] = os.register_at_fork
_forks(after_in_child=_forget_all)
