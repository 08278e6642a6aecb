"""
A source of keys that is not ours, such as the client of a service: each call of it ends in a
limited time, and raises what the protocol says.

A consumer would end with an error that it does not know, and a call that does not return would
keep it from its messages, ready as it seems.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from typing import Any, NoReturn

from outbox.encryption.key_database import KeyDatabase
from outbox.encryption.key_file import KeyFile
from outbox.encryption.key_ring import KeyRing
from outbox.encryption.keys import KeyProvider, KeysUnavailable, UnknownKey, WrappedKey, WrongKey
from outbox.errors import ConfigurationError

CALL_SECONDS = 15.0
"""The longest time of a call; a client with a limit of its own should have a shorter one."""
MOST_CALLS = 8
"""The calls at the same time, those that have not returned in time included."""


class GuardedKeys:
    """
    The source *keys*; *setting* begins each error, and *seconds* limits each call.

    A source that is in memory is called in the caller's thread, any other one in a thread of its
    own.
    """

    def __init__(self, keys: KeyProvider, *, setting: str, seconds: float = CALL_SECONDS) -> None:
        self.is_in_memory = bool(getattr(keys, "is_in_memory", False))
        self._keys = keys
        self._setting = setting
        self._seconds = seconds
        self._process, self._free = os.getpid(), threading.Semaphore(MOST_CALLS)

    def digest_key(self) -> bytes:
        found = self._called("digest_key", self._keys.digest_key, ConfigurationError)
        return self._bytes("digest_key", found)

    def wrap(self, key: bytes, /) -> WrappedKey:
        found = self._called("wrap", partial(self._keys.wrap, key), ConfigurationError)
        match found:
            case (str() as key_id, bytes() as wrapped):
                return WrappedKey(key_id, wrapped)
            case _:
                raise self._refused("wrap", "has returned no WrappedKey")

    def unwrap(self, wrapped: WrappedKey, /) -> bytes:
        call = partial(self._keys.unwrap, wrapped)
        return self._bytes("unwrap", self._called("unwrap", call, UnknownKey, WrongKey))

    def close(self) -> None:
        """Close the source, if it can be closed."""
        if callable(close := getattr(self._keys, "close", None)):
            close()

    def _called(self, name: str, call: Callable[[], Any], *known: type[Exception]) -> Any:
        """The answer of *call*; raises the *known* errors, and KeysUnavailable for any other."""
        passed: tuple[type[Exception], ...] = (KeysUnavailable, *known)
        try:
            return call() if self.is_in_memory else self._in_thread(name, call)
        except passed:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code
            # Without its text, which may quote anything.
            raise KeysUnavailable(
                f"{self._setting}: {name} of the source has failed ({type(error).__name__})"
            ) from None

    def _in_thread(self, name: str, call: Callable[[], Any]) -> Any:
        free = self._free_calls()
        if not free.acquire(timeout=self._seconds):
            self._fail_late(name)
        answer: Future[Any] = Future()
        # A daemon, which the end of the process does not wait for.
        thread = threading.Thread(target=_answer, args=(call, answer, free), daemon=True)
        try:
            thread.start()
        except RuntimeError:  # there are too many threads, or the process ends
            free.release()
            raise
        try:
            return answer.result(self._seconds)
        except FutureTimeoutError:
            if answer.done():  # the source itself has raised it
                raise
            self._fail_late(name)

    def _free_calls(self) -> threading.Semaphore:
        # A child that was forked has none of the threads that its parent waits for.
        if self._process != os.getpid():
            self._process, self._free = os.getpid(), threading.Semaphore(MOST_CALLS)
        return self._free

    def _bytes(self, name: str, found: object) -> bytes:
        if not isinstance(found, bytes):
            raise self._refused(name, "has returned no bytes")
        return found

    def _refused(self, name: str, problem: str) -> KeysUnavailable:
        return KeysUnavailable(f"{self._setting}: {name} of the source {problem}", refused=True)

    def _fail_late(self, name: str) -> NoReturn:
        raise KeysUnavailable(
            f"{self._setting}: {name} of the source did not answer within"
            f" {self._seconds:g} seconds"
        )


def guarded(keys: KeyProvider, *, setting: str) -> KeyProvider:
    """Return *keys*, guarded unless they are a source of ours; *setting* begins its errors."""
    ours = KeyRing | KeyFile | KeyDatabase | GuardedKeys
    return keys if isinstance(keys, ours) else GuardedKeys(keys, setting=setting)


def _answer(call: Callable[[], Any], answer: Future[Any], free: threading.Semaphore) -> None:
    try:
        found = call()
    except BaseException as error:  # noqa: BLE001 - raised in the thread of the caller
        free.release()
        answer.set_exception(error)
    else:
        free.release()
        answer.set_result(found)
