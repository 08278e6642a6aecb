"""
The end of a supervisor's channel that a process holds.
"""

import asyncio
import os
import socket
from dataclasses import replace
from datetime import timedelta

import pytest

from consumer.supervised import VARIABLE, Report, Supervision, followed, supervision
from outbox.errors import ConfigurationError
from outbox.runtime.figures import Figures
from outbox.runtime.probes import Health
from outbox.runtime.service import ExitCode
from tests.support.eventually import eventually

LONG = timedelta(minutes=1)
REPORT = Report(handled=7, missing=("broker",), port=8003)


def spared(_code: int) -> None:
    """Ends no process: the deadline passes a minute later, in the process of another test."""


@pytest.fixture
def channel():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


async def line_from(ours):
    reader, writer = await asyncio.open_connection(sock=ours)
    return await asyncio.wait_for(reader.readline(), 5), writer


async def test_a_process_reports_at_once_and_stops_when_the_channel_is_closed(channel):
    ours, theirs = channel
    stop = asyncio.Event()

    async with Supervision(theirs, deadline=LONG, end=spared).followed(stop, lambda: REPORT):
        line, writer = await line_from(ours)
        assert Report.from_line(line) == REPORT
        assert not stop.is_set()

        writer.close()

        await asyncio.wait_for(stop.wait(), 5)


async def test_a_process_that_takes_messages_has_said_so_before_the_first_one(channel):
    ours, theirs = channel
    supervised = Supervision(theirs, deadline=LONG, end=spared)

    async with supervised.followed(asyncio.Event(), lambda: REPORT):
        supervised.started()
        theirs.shutdown(socket.SHUT_RDWR)  # as its end does

        reader, writer = await asyncio.open_connection(sock=ours)
        *_, last = (await asyncio.wait_for(reader.read(), 5)).splitlines()
        assert Report.from_line(last) == replace(REPORT, started=True)
        writer.close()


async def test_a_supervisor_that_closes_only_its_side_still_gets_reports(channel):
    ours, theirs = channel
    stop = asyncio.Event()

    async with Supervision(theirs, deadline=LONG, end=spared).followed(stop, lambda: REPORT):
        line, writer = await line_from(ours)
        writer.write_eof()

        await asyncio.wait_for(stop.wait(), 5)
        assert Report.from_line(line) == REPORT
        writer.close()


async def test_a_process_that_does_not_end_after_it_was_asked_to_is_ended(channel):
    ours, theirs = channel
    ended: list[int] = []
    supervised = Supervision(theirs, deadline=timedelta(seconds=0.05), end=ended.append)

    async with supervised.followed(asyncio.Event(), lambda: REPORT):
        ours.close()

        await eventually(lambda: ended == [ExitCode.DRAIN_DEADLINE])


def test_a_process_whose_event_loop_is_blocked_is_not_ready(monkeypatch):
    health, figures = Health("broker"), Figures(began=0)
    figures.counts["success"] = 3
    figures.counts["duplicate"] = 1
    health.up("broker")
    assert Report.of(health, figures, 8003) == Report(4, (), 8003)

    monkeypatch.setattr("outbox.runtime.probes.STALL_SECONDS", -1.0)

    assert Report.of(health, figures, 8003) == Report(4, ("event loop",), 8003)
    assert Report.of(health, figures, None) == Report(4, (), None)


async def test_without_a_supervisor_nothing_is_followed():
    stop = asyncio.Event()

    async with followed(supervision({}, drain=LONG), stop, lambda: REPORT):
        assert not stop.is_set()


def test_the_channel_is_not_for_processes_that_handlers_start(channel, monkeypatch):
    _, theirs = channel
    monkeypatch.setattr("outbox.runtime.log_context._of_process", {})
    descriptor = os.dup(theirs.fileno())
    os.set_inheritable(descriptor, True)
    variables = {VARIABLE: f"3:{descriptor}"}

    found = supervision(variables, drain=LONG)

    assert found is not None
    assert variables == {}
    assert not os.get_inheritable(descriptor)
    found._channel.close()


@pytest.mark.parametrize("value", ["", "1", "one:two", "1:2:3", "1:999999"])
def test_a_variable_that_no_supervisor_has_set_is_refused(value):
    with pytest.raises(ConfigurationError, match=f"^{VARIABLE}: .*unset it$"):
        supervision({VARIABLE: value}, drain=LONG)
