"""
How the service of a process ends.
"""

import asyncio
from datetime import timedelta

import pytest

from outbox.runtime import service
from outbox.runtime.service import ExitCode
from tests.support.builders import LEAK_MARKER


@pytest.mark.parametrize(
    "error",
    [ValueError(LEAK_MARKER), asyncio.CancelledError(LEAK_MARKER), SystemExit(LEAK_MARKER)],
)
def test_any_error_of_the_application_is_one_line_and_the_exit_code_of_a_crash(
    monkeypatch, lines, capfd, error
):
    monkeypatch.setattr(service, "_tune_garbage_collector", lambda: None)

    async def serve(_stop: asyncio.Event) -> None:
        raise error

    assert service.run(serve, drain=timedelta(seconds=1)) is ExitCode.CRASHED

    written = lines()
    assert [(each["event"], each["error"]) for each in written] == [
        ("crashed", type(error).__name__)
    ]
    assert LEAK_MARKER not in str(written)
    assert capfd.readouterr() == ("", "")
