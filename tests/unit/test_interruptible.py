"""
Commands that a signal ends.
"""

import asyncio
import gc
import logging
import os
import re
import signal
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from outbox.cli import console
from outbox.cli.interruptible import run_interruptible, run_query
from outbox.runtime.service import ExitCode
from tests.support.builders import LEAK_MARKER
from tests.support.pages import REPOSITORY


async def connect_until_cancelled(signals: int) -> None:
    """Wait like a driver whose connection fails because the caller is cancelled."""
    loop = asyncio.get_running_loop()
    answer = loop.create_future()
    for _ in range(signals):
        loop.call_soon(os.kill, os.getpid(), signal.SIGINT)
    try:
        await asyncio.Event().wait()
    finally:
        answer.set_exception(ConnectionError(LEAK_MARKER))


def test_a_query_ends_at_the_first_signal_and_prints_nothing(caplog, capfd):
    with pytest.raises(SystemExit) as ended:
        run_query(lambda: connect_until_cancelled(signals=1))
    code = ended.value.code
    del ended  # its traceback keeps the future
    gc.collect()

    assert code == ExitCode.CRASHED
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_a_command_that_changes_rows_ends_at_the_second_signal_and_prints_nothing(caplog, capfd):
    async def work(stop: asyncio.Event) -> None:
        await connect_until_cancelled(signals=1)
        assert stop.is_set()

    async def interrupted(stop: asyncio.Event) -> None:
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
        await work(stop)

    with pytest.raises(SystemExit) as ended:
        run_interruptible(interrupted)
    code = ended.value.code
    del ended
    gc.collect()

    assert code == ExitCode.CRASHED
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_without_a_signal_an_error_that_no_task_awaits_is_logged(caplog):
    async def forget() -> int:
        asyncio.get_running_loop().create_future().set_exception(ConnectionError())
        gc.collect()
        return 1

    with caplog.at_level(logging.ERROR):
        assert run_query(forget) == 1
    assert len(caplog.records) == 1


def test_a_missing_privilege_is_a_line_that_names_a_section_which_exists(capsys):
    class RefusedError(Exception):
        sqlstate = "42501"

    async def refused() -> None:
        raise DBAPIError(None, None, RefusedError(LEAK_MARKER))

    with pytest.raises(SystemExit) as ended:
        console.once(refused)

    line = capsys.readouterr().err
    section, page = re.search(r"see (.+) in (docs/\S+)", line).groups()  # type: ignore[union-attr]
    assert ended.value.code == ExitCode.BAD_CONFIGURATION
    assert LEAK_MARKER not in line
    assert f"\n## {section}\n" in Path(REPOSITORY, page).read_text()
