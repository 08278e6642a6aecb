"""
The loop of a supervisor: it keeps processes of one consumer running, as many as the load needs.

It handles no message itself. Any number of processes share the work of a consumer, so the
guarantees do not depend on it:

    a process is killed, or crashes      its unacked messages are delivered to another one
    the supervisor is killed             its processes drain and end; see `consumer.supervised`
    a process leaves as the load falls   it drains first, like any process that is stopped
"""

import asyncio
import signal
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Protocol

from consumer.supervision.restarts import Crashes, GiveUp
from consumer.supervision.scaling import HandledRate, Limits, Load, Pace, State, decide
from consumer.supervision.slot import Slot, Start
from consumer.supervision.telemetry import Telemetry
from outbox.errors import Unavailable
from outbox.runtime.probes import Health
from outbox.runtime.service import ExitCode

WATCH_SECONDS = 0.5
PROCESSES = "processes"
"""The word of `/readyz` for processes that are not ready."""

_CLEAN = frozenset(
    {
        ExitCode.STOPPED,
        ExitCode.DRAIN_DEADLINE,
        # One that was still starting had no work: it waited for a server, or had no handler of
        # signals yet.
        ExitCode.UNREACHABLE,
        -signal.SIGTERM,
        -signal.SIGINT,
        128 + signal.SIGINT,
    }
)
"""The exit codes of a process that was asked to stop, and leaves no work half done."""


class Backlog(Protocol):
    """The work queue."""

    async def waiting(self) -> int:
        """The messages that are ready in it; raises Unavailable."""


class Supervisor:
    """
    Keeps processes running, from the minimum of *limits* on.

    With a *backlog* their number follows the load at this *pace*. *health* is ready while at least
    the minimum of them is.
    """

    def __init__(
        self,
        *,
        start: Start,
        limits: Limits,
        crashes: Crashes,
        telemetry: Telemetry,
        health: Health,
        deadline: timedelta,
        backlog: Backlog | None = None,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start = start
        self._limits = limits
        self._crashes = crashes
        self._telemetry = telemetry
        self._health = health
        self._deadline = deadline
        self._backlog = backlog
        self._pace = pace or Pace()
        self._clock = clock
        self._slots: dict[int, Slot] = {}
        self._codes: list[int] = []
        self._given_up: asyncio.Future[ExitCode] | None = None

    @property
    def ports(self) -> Mapping[int, int]:
        """The ports of the probes of the processes, by their numbers."""
        # The probes read it in another thread, so each is read once.
        children = [(slot.number, slot.child) for slot in tuple(self._slots.values())]
        reports = [(number, child.report) for number, child in children if child is not None]
        return {
            number: report.port
            for number, report in reports
            if report is not None and report.port is not None
        }

    async def run(self, stop: asyncio.Event) -> ExitCode:
        """
        Keep the processes running until *stop* is set, then let them drain; returns the exit code.

        It is that of the decision to give up, DRAIN_DEADLINE if a process did not end in time, or
        CRASHED if one crashed while it drained.
        """
        self._given_up = asyncio.get_running_loop().create_future()
        async with asyncio.TaskGroup() as group:
            self._resize(group, self._limits.minimum)
            beside = [group.create_task(self._watch())]
            if self._backlog is not None:
                beside.append(group.create_task(self._scale(group, self._backlog)))
            stopping = group.create_task(stop.wait())
            first: set[asyncio.Future[Any]] = {stopping, self._given_up}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            for task in (*beside, stopping):
                task.cancel()
            self._codes.clear()
            for slot in self._slots.values():
                slot.leaving.set()
        return self._given_up.result() if self._given_up.done() else _together(self._codes)

    def _resize(self, group: asyncio.TaskGroup, number: int) -> None:
        """Let places leave, the highest first, or add some, until *number* of them are kept."""
        kept = self._kept()
        for slot in kept[number:]:
            slot.leaving.set()
        for _ in range(number - len(kept)):
            free = next(each for each in range(1, len(self._slots) + 2) if each not in self._slots)
            slot = Slot(
                free,
                start=self._start,
                crashes=self._crashes,
                others_ready=self._others_ready,
                telemetry=self._telemetry,
                deadline=self._deadline,
            )
            self._slots[free] = slot
            group.create_task(self._keep(slot))

    async def _keep(self, slot: Slot) -> None:
        end = await slot.run()
        del self._slots[slot.number]
        if not isinstance(end, GiveUp):
            self._codes.append(end)
        elif self._given_up is not None and not self._given_up.done():
            self._given_up.set_result(end.code)
            # At once: another process that has ended by now is no reason to give up again.
            for other in self._slots.values():
                other.leaving.set()

    async def _watch(self) -> None:
        """Keep readiness and gauges up to date."""
        while True:
            kept = self._kept()
            ready = [slot for slot in kept if slot.is_ready]
            children = [slot.child for slot in kept if slot.child is not None]
            reports = [child.report for child in children if child.report is not None]
            if any(report.started for report in reports):
                self._crashes.has_started = True
            if len(ready) < self._limits.minimum:
                missing = {need for report in reports for need in report.missing}
                self._health.waits_for(PROCESSES, *missing)
            else:
                self._health.waits_for()
            self._telemetry.counted(wanted=len(kept), ready=len(ready))
            await asyncio.sleep(WATCH_SECONDS)

    async def _scale(self, group: asyncio.TaskGroup, backlog: Backlog) -> None:
        state, rate = State(self._pace.cooldown), HandledRate(self._pace.window)
        while True:
            await asyncio.sleep(self._pace.look_every.total_seconds())
            try:
                waiting = await backlog.waiting()
            except Unavailable as error:
                self._telemetry.looked(error)
                continue
            self._telemetry.looked(None)
            load = self._load(rate, waiting)
            state, number = decide(state, load, self._limits, self._pace)
            if number != load.processes:
                self._telemetry.scaled(load, number)
                self._resize(group, number)

    def _load(self, rate: HandledRate, waiting: int) -> Load:
        now, kept = self._clock(), self._kept()
        children = [slot.child for slot in self._slots.values() if slot.child is not None]
        handled = {each.pid: each.report.handled for each in children if each.report is not None}
        return Load(
            at=now,
            waiting=waiting,
            rate=rate.sample(now, handled),
            processes=len(kept),
            ready=sum(slot.is_ready for slot in kept),
        )

    def _kept(self) -> list[Slot]:
        """The places that do not leave, by their numbers."""
        kept = (slot for slot in self._slots.values() if not slot.leaving.is_set())
        return sorted(kept, key=lambda slot: slot.number)

    def _others_ready(self, one: Slot) -> bool:
        return any(slot.is_ready for slot in self._kept() if slot is not one)


def _together(codes: list[int]) -> ExitCode:
    """The exit code of a supervisor whose processes have ended with *codes*."""
    if any(code not in _CLEAN for code in codes):
        return ExitCode.CRASHED
    if ExitCode.DRAIN_DEADLINE in codes:
        return ExitCode.DRAIN_DEADLINE
    return ExitCode.STOPPED
