"""
Waiters of this process, which are woken when the reply that they wait for is stored.

Only a process that collects replies itself wakes its waiters; polling is what they rely on.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import NamedTuple

_lock = Lock()
_waiters: dict[str, set["_Waiter"]] = defaultdict(set)


class _Waiter(NamedTuple):
    loop: asyncio.AbstractEventLoop
    event: asyncio.Event


@contextmanager
def woken_by(*correlation_ids: str) -> Iterator[asyncio.Event]:
    """Yield an event that is set once a reply with one of *correlation_ids* is stored here."""
    waiter = _Waiter(asyncio.get_running_loop(), asyncio.Event())
    with _lock:
        for each in correlation_ids:
            _waiters[each].add(waiter)
    try:
        yield waiter.event
    finally:
        with _lock:
            for each in correlation_ids:
                _waiters[each].discard(waiter)
                if not _waiters[each]:
                    del _waiters[each]


def wake(correlation_id: str) -> None:
    """Wake the waiters for the reply with *correlation_id*, which is committed."""
    with _lock:
        found = list(_waiters.get(correlation_id, ()))
    for waiter in found:
        if not waiter.loop.is_closed():
            waiter.loop.call_soon_threadsafe(waiter.event.set)
