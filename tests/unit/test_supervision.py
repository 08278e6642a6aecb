"""
The loop of a supervisor, with processes that a test ends.
"""

import asyncio
import signal
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from consumer.supervised import Report
from consumer.supervision.restarts import Crashes
from consumer.supervision.scaling import Limits, Pace
from consumer.supervision.supervisor import Supervisor
from consumer.supervision.telemetry import Telemetry
from outbox.backoff import Exponential
from outbox.runtime.probes import Health
from outbox.runtime.service import ExitCode
from tests.support.eventually import eventually
from tests.support.fake_children import Backlog, FakeChild

SOON = timedelta(milliseconds=1)
PACE = Pace(look_every=SOON, window=SOON, cooldown=timedelta(milliseconds=20))


class Running:
    """A supervisor at work, and all processes that it has started."""

    def __init__(self, **options: object) -> None:
        self.children, self.stop, self.health = [], asyncio.Event(), Health("processes")
        self.missing, self.drains = options.pop("missing", ()), options.pop("drains", True)
        self.supervisor = Supervisor(
            start=self.start,
            crashes=Crashes(20),
            telemetry=Telemetry(CollectorRegistry()),
            health=self.health,
            deadline=timedelta(seconds=0.05),
            pace=PACE,
            **options,
        )

    async def start(self, number):
        self.children.append(FakeChild(number, drains=self.drains, missing=self.missing))
        return self.children[-1]

    @property
    def at_work(self):
        return [child for child in self.children if not child.has_ended]

    async def has(self, number):
        await eventually(lambda: len(self.at_work) == number)


@asynccontextmanager
async def running(minimum=2, maximum=None, **options):
    made = Running(limits=Limits(minimum, maximum or minimum), **options)
    made.task = asyncio.ensure_future(made.supervisor.run(made.stop))
    try:
        await made.has(minimum)
        yield made
    finally:
        made.task.cancel()
        await asyncio.wait({made.task})


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr("consumer.supervision.restarts.PAUSES", Exponential(SOON, cap=SOON))
    monkeypatch.setattr("consumer.supervision.restarts.LONGEST_PAUSE", SOON)


async def stopped(made):
    made.stop.set()
    return await asyncio.wait_for(made.task, 5)


async def test_all_processes_drain_when_the_supervisor_is_stopped():
    async with running(3) as made:
        assert await stopped(made) == ExitCode.STOPPED

        assert [child.number for child in made.children] == [1, 2, 3]
        assert all(child.asked and not child.killed for child in made.children)


@pytest.mark.parametrize("code", [0, 1, 3, 4, -9, -11, -15])
async def test_a_process_that_ends_is_followed_by_one_of_its_number(code):
    async with running(2) as made:
        made.children[0].end(code)

        await eventually(lambda: len(made.children) == 3)
        assert made.children[2].number == 1
        assert await stopped(made) == ExitCode.STOPPED


async def test_a_process_that_does_not_drain_in_time_is_killed_and_the_exit_code_says_so():
    async with running(1, drains=False) as made:
        assert await stopped(made) == ExitCode.DRAIN_DEADLINE
        assert made.children[0].killed


async def test_a_process_that_crashes_while_it_drains_shows_in_the_exit_code():
    async with running(2, drains=False) as made:
        made.stop.set()
        await eventually(lambda: all(child.asked for child in made.children))
        made.children[0].end(1)
        made.children[1].end(0)

        assert await asyncio.wait_for(made.task, 5) == ExitCode.CRASHED


@pytest.mark.parametrize("code", [ExitCode.UNREACHABLE, -signal.SIGINT, -signal.SIGTERM, 130])
async def test_a_process_that_is_stopped_while_it_starts_has_ended_cleanly(code):
    async with running(1, drains=False) as made:
        made.stop.set()
        await eventually(lambda: made.children[0].asked)
        made.children[0].end(code)

        assert await asyncio.wait_for(made.task, 5) == ExitCode.STOPPED


async def test_a_second_signal_aborts_all_processes():
    async with running(2, drains=False) as made:
        made.stop.set()
        await eventually(lambda: all(child.asked for child in made.children))

        made.task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await made.task
        assert all(child.aborted for child in made.children)


async def test_a_bad_configuration_stops_the_others_that_cannot_work_either():
    async with running(2, missing=("broker",)) as made:
        made.children[0].end(ExitCode.BAD_CONFIGURATION)

        assert await asyncio.wait_for(made.task, 5) == ExitCode.BAD_CONFIGURATION
        assert made.children[1].asked


async def test_processes_that_end_at_the_same_moment_are_one_reason_to_give_up(monkeypatch):
    reasons = []
    monkeypatch.setattr(Telemetry, "gave_up", lambda *reason: reasons.append(reason))
    async with running(2, missing=("broker",)) as made:
        for child in made.children:
            child.end(ExitCode.BAD_CONFIGURATION)

        assert await asyncio.wait_for(made.task, 5) == ExitCode.BAD_CONFIGURATION
    assert len(reasons) == 1


async def test_a_bad_configuration_of_one_process_leaves_those_that_work():
    async with running(2) as made:
        made.children[0].end(ExitCode.BAD_CONFIGURATION)

        await eventually(lambda: len(made.children) == 3)
        assert not made.task.done()


async def test_processes_that_never_work_end_the_supervisor_with_the_code_of_its_limit():
    async with running(1, missing=("broker",)) as made:
        while not made.task.done():
            made.children[-1].end(1)
            await asyncio.sleep(0)

        assert made.task.result() == ExitCode.CRASH_LIMIT
        assert len(made.children) == 5


async def test_a_process_whose_first_message_ends_it_counts_as_started():
    async with running(1, missing=("broker",)) as made:
        for number in range(1, 7):
            made.children[-1].report = Report(0, ("broker",), None, started=True)
            made.children[-1].end(-signal.SIGSEGV)
            await eventually(lambda least=number: len(made.children) > least)

        assert not made.task.done()


async def test_a_process_that_never_starts_beside_one_that_works_is_no_wrong_program():
    async with running(2) as made:
        made.children[0].report = Report(0, (), None, started=True)
        await eventually(lambda: made.supervisor._crashes.has_started)
        for number in range(1, 8):
            made.children[-1].end(1)
            await eventually(lambda least=number: len(made.children) > least + 1)

        assert not made.task.done()


async def test_a_system_that_starts_no_process_is_asked_again(monkeypatch):
    async with running(1) as made:
        start, refusals = made.start, iter([OSError(11, "no"), OSError(12, "no")])

        async def refuse(number):
            for error in refusals:
                raise error
            return await start(number)

        made.supervisor._slots[1]._start = refuse
        made.children[0].end(-9)

        await eventually(lambda: len(made.children) == 2)


async def test_readiness_needs_the_minimum_of_processes():
    async with running(2, missing=("broker",)) as made:
        await eventually(lambda: made.health.missing == ["broker", "processes"])
        made.children[0].report = Report(0, (), None)
        made.children[1].report = Report(0, (), None)

        await eventually(lambda: made.health.missing == [])


async def test_a_backlog_starts_processes_and_an_empty_queue_stops_the_last_ones():
    backlog = Backlog(0)
    async with running(1, 4, backlog=backlog) as made:
        backlog.messages = 1000
        await made.has(4)
        backlog.messages = None
        await made.has(4)
        backlog.messages = 0

        await made.has(1)
        assert made.at_work[0].number == 1
        assert all(child.asked for child in made.children if child.number > 1)


async def test_the_ports_of_processes_that_work_are_known():
    async with running(2) as made:
        assert made.supervisor.ports == {1: 8001, 2: 8002}
