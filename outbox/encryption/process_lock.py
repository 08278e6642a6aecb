"""
A lock of one process: a child that is forked while another thread holds it gets a free one.
"""

import os
import threading
from types import TracebackType
from weakref import WeakSet


class ProcessLock:
    """A lock for `with`; a forked child does not wait for a thread that only its parent has."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Free the lock, in a child that has one thread."""
        self._lock = threading.Lock()


_locks: WeakSet[ProcessLock] = WeakSet()


def _renew_all() -> None:
    for lock in tuple(_locks):
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
