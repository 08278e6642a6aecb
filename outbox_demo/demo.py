"""
The course of a run: start all processes, kill some, wait until all events are applied, audit.
"""

import asyncio
import time
from contextlib import suppress
from datetime import timedelta

from rich.console import Console

from outbox_demo import history
from outbox_demo.audit import audit
from outbox_demo.display import Display, Result, final_table
from outbox_demo.fault_injector import FaultInjector, Shares
from outbox_demo.plan import Plan
from outbox_demo.processes import Child, ChildFailed, Processes
from outbox_demo.progress import Counts, ProgressReader, progress_reader
from outbox_demo.resources import Resources

POLL_SECONDS = 0.2
DRAIN_SECONDS = 30.0


class Demo:
    """Runs the processes of one *plan*."""

    def __init__(self, plan: Plan, display: Display, progress: ProgressReader) -> None:
        self._plan = plan
        self._display = display
        self._progress = progress
        self._resources = Resources(plan.run, plan.settings)
        self._consumers = [self._consumer(number) for number in (1, 2)]
        self._relay = self._child("relay", "relay", "run")
        self._producer = self._child(
            *("producer", "outbox_demo.producer", str(plan.directory), str(plan.seed))
        )
        self._faults = FaultInjector(self._relay, self._consumers, self._has_unsettled)

    async def run(self) -> Result:
        """
        Run all processes from the first start to the last exit code.

        Raises ChildFailed if a process ends unexpectedly.
        """
        began, in_time = time.monotonic(), False
        self._display.print("starting two consumers, a relay and a producing application")
        async with Processes([*self._consumers, self._relay, self._producer]) as processes:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._plan.deadline.total_seconds()):
                    await self._until_applied()
                    took = time.monotonic() - began
                    await self._until_queue_empty()
                    in_time = True
            if not in_time:
                took = time.monotonic() - began
            for consumer in self._consumers:
                await self._faults.count_duplicates(consumer)
            self._display.print("stopping all processes")
            exit_codes = await processes.stop(within=DRAIN_SECONDS)
        counts = await self._counts()
        past = history.read(self._plan.directory / history.FILE_NAME)
        return Result(
            audit(await self._progress.uploads(), await self._progress.effects(), past),
            counts,
            duplicates=self._faults.duplicates,
            killed=self._faults.killed,
            took=timedelta(seconds=took),
            exit_codes=exit_codes,
            in_time=in_time,
        )

    async def _until_applied(self) -> None:
        """Wait until all events are applied; meanwhile kill each process when its kill is due."""
        counts, has_committed = Counts(), False
        while self._faults.pending or not (has_committed and self._is_applied(counts)):
            await asyncio.sleep(POLL_SECONDS)
            counts = await self._counts()
            self._check_processes()
            if not has_committed and self._producer.exit_code == 0:
                has_committed = True
                self._display.print("the application has committed its last event")
            for line in await self._faults.kill_due(self._shares(counts)):
                self._display.print(line)

    async def _until_queue_empty(self) -> None:
        """Wait until the queue is empty too, and all processes are ready again."""
        self._display.print("all events are applied; waiting until the queue is empty")
        while not await self._is_idle():
            self._check_processes()
            await asyncio.sleep(POLL_SECONDS)

    async def _is_idle(self) -> bool:
        for child in (*self._consumers, self._relay):
            if not await child.ready():
                return False
        return await self._resources.queued() == 0

    async def _counts(self) -> Counts:
        counts = await self._progress.counts()
        self._display.show(counts)
        return counts

    def _is_applied(self, counts: Counts) -> bool:
        return not counts.waiting and counts.applied >= self._plan.expected.effects

    def _check_processes(self) -> None:
        for child in (*self._consumers, self._relay):
            if child.exit_code is not None:
                raise ChildFailed(child)
        if self._producer.exit_code not in {None, 0}:
            raise ChildFailed(self._producer)

    def _shares(self, counts: Counts) -> Shares:
        expected = self._plan.expected
        return Shares(counts.published / expected.events, counts.applied / expected.effects)

    async def _has_unsettled(self) -> bool | None:
        """Whether the broker has rows that are still in the outbox; None if none will follow."""
        counts = await self._counts()
        if not counts.waiting:
            return None if self._producer.exit_code == 0 else False
        return await self._resources.queued() + counts.applied > counts.published

    def _consumer(self, number: int) -> Child:
        return self._child(f"consumer {number}", "consumer", "run", "outbox_demo.etl:etl")

    def _child(self, name: str, *program: str) -> Child:
        return Child(name, *program, log=self._plan.directory / f"{name.replace(' ', '-')}.log")


async def run(plan: Plan, console: Console) -> bool:
    """Run *plan* and print the result on *console*; returns whether the run passed."""
    await Resources(plan.run, plan.settings).create()
    async with progress_reader(plan.settings, plan.run) as progress:
        with Display(console, plan.expected) as display:
            result = await Demo(plan, display, progress).run()
    console.print(final_table(result))
    return result.passed
