#!/usr/bin/env bash
# `asyncio.wait_for` of Python 3.11 loses a cancellation that comes as its future is done.
#
# Seen with Python 3.11.2 (Debian 12) and 3.11.7, 2026-11; 3.12.1 and 3.13.0 do not. A task awaits
# `wait_for(event.wait(), 60)`. In one step of the loop another one sets the event and cancels the
# task. `cancel()` returns True, `wait_for` returns as if nothing had been asked for, and the task
# goes on to its end. `async with asyncio.timeout(60): await event.wait()` raises CancelledError.
#
# One would guess otherwise: an awaiting task that is cancelled gets CancelledError, the manual names
# no exception to it, and the two ways to set a time limit look interchangeable. A task group that
# is aborted, or `asyncio.timeout` around the whole, cancels once and then waits for the task, which
# works on after its time is up; a loop that would end by this cancellation alone does not end.
# An event that means "stop", or a queue that gets its item, is often set where tasks are cancelled.
#
# So code that has to run with Python 3.11 uses `asyncio.timeout`.
#
# Needs Python 3.11, as `python3.11`. Fails if the behaviour changes.
set -euo pipefail

command -v python3.11 >/dev/null || { echo "Python 3.11 is missing" >&2; exit 3; }

timeout 60 python3.11 - <<'PYTHON'
import asyncio
import sys


async def by_wait_for(event):
    await asyncio.wait_for(event.wait(), 60)


async def by_timeout(event):
    async with asyncio.timeout(60):
        await event.wait()


async def outcome(wait):
    """Whether the task took the request, and whether it was cancelled."""
    event = asyncio.Event()
    task = asyncio.create_task(wait(event))
    for _ in range(3):
        await asyncio.sleep(0)
    event.set()
    is_requested = task.cancel()
    await asyncio.wait([task])
    return is_requested, task.cancelled()


print("Python", sys.version.split()[0])
found = {wait.__name__: asyncio.run(outcome(wait)) for wait in (by_wait_for, by_timeout)}
for name, (is_requested, is_cancelled) in found.items():
    print(f"{name:12} cancel() returns {is_requested}, the task is cancelled: {is_cancelled}")
assert found == {"by_wait_for": (True, False), "by_timeout": (True, True)}, found
PYTHON
