"""
Hypothesis without its deadline of 200 ms an example, which a busy machine can miss; and the log.
"""

import io
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from hypothesis import settings

from outbox.runtime import captured, log_context, logs, redacted_loggers
from outbox.settings import SharedSettings

settings.register_profile("unit", deadline=None)
settings.load_profile("unit")

Lines = Callable[[], list[dict[str, Any]]]

JSON = SharedSettings(_env_file=None, log_format="json", log_level="info")


@pytest.fixture(name="lines")
def lines_of_the_log(monkeypatch) -> Iterator[Lines]:
    """Configures the logs as a process does; returns the lines since the last call."""
    root = logging.getLogger()
    before = structlog.get_config(), root.handlers, root.level, warnings.showwarning
    levels = {name: logging.getLogger(name).level for name in redacted_loggers.LIBRARIES}
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    # Restored afterwards.
    monkeypatch.setattr(logs, "_own", {})
    monkeypatch.setattr(logs, "_tracebacks", False)
    monkeypatch.setattr(redacted_loggers, "_more", set())
    monkeypatch.setattr(log_context, "_of_process", {})
    logs.configure(JSON, process="test")
    captured.capture("info")

    def read() -> list[dict[str, Any]]:
        text = stream.getvalue()
        stream.seek(0)
        stream.truncate()
        return [json.loads(line) for line in text.splitlines()]

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = captured._show_warning
        yield read
    structlog.configure(**before[0])
    structlog.contextvars.clear_contextvars()
    root.handlers, warnings.showwarning = before[1], before[3]
    root.setLevel(before[2])
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
