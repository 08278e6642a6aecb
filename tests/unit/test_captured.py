"""
Messages of libraries, of the application and of Python, as lines of the log.
"""

import asyncio
import gc
import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from sqlalchemy.exc import SAWarning

from outbox.runtime import captured, logs
from outbox.settings import SharedSettings
from tests.support.builders import LEAK_MARKER

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(monkeypatch) -> Iterator[Lines]:
    """Configures the logs as a process does; returns the lines since the last call."""
    root = logging.getLogger()
    before = structlog.get_config(), root.handlers, root.level, warnings.showwarning
    levels = {name: logging.getLogger(name).level for name in captured._LIBRARIES}
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    logs.configure(SharedSettings(log_format="json", log_level="info"), process="test")
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


def test_the_text_and_the_extras_of_the_application_are_unchanged(lines):
    log = logging.getLogger("myapp.handlers")

    log.warning("took %s of %d %%", "a", 2, extra={"patients": 3, "event": "x"})
    log.info("100% of it")
    log.log(25, "between two levels")
    log.debug("hidden")

    one, two, three = lines()
    assert (one["component"], one["event"], one["level"]) == (
        "myapp.handlers",
        "took a of 2 %",
        "warning",
    )
    assert one["patients"] == 3
    assert (two["event"], two["level"]) == ("100% of it", "info")
    assert (three["event"], three["level"]) == ("between two levels", "info")


def test_of_an_exception_that_the_application_logs_the_class_and_the_place_are_shown(lines):
    try:
        fail()
    except ValueError:
        logging.getLogger("myapp").exception("no result")

    (line,) = lines()
    assert (line["event"], line["level"], line["error"]) == ("no result", "error", "ValueError")
    assert line["at"].startswith("fail:")
    assert LEAK_MARKER not in json.dumps(line)


def test_a_record_with_wrong_arguments_is_a_line(lines):
    logging.getLogger("myapp").warning("%d of them", LEAK_MARKER)

    assert [line["event"] for line in lines()] == ["%d of them"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("aiormq.connection", "error when creating transport: …"),
        ("sqlalchemy.pool.impl", "error when creating transport: …"),
        ("asyncpg.pool", "error when creating transport: …"),
    ],
)
def test_the_words_of_a_driver_are_shown_without_values(lines, name, text):
    logging.getLogger(name).error("error when creating transport: %r", LEAK_MARKER)
    logging.getLogger(name).error("no place for " + LEAK_MARKER)  # noqa: G003
    logging.getLogger(name).info("not even this")

    one, two = lines()
    assert (one["event"], one["component"], one["text"]) == ("library_message", name, text)
    assert two["text"] is None
    assert LEAK_MARKER not in json.dumps([one, two])


def test_a_reconnect_of_the_amqp_client_is_a_warning_and_not_an_error(lines):
    logging.getLogger("aiormq.connection").error("error when creating transport: %r", "x")
    logging.getLogger("sqlalchemy.pool").error("Exception terminating connection %r", "x")

    assert [line["level"] for line in lines()] == ["warning", "error"]


def test_a_command_that_cannot_connect_has_no_line_of_the_client(lines):
    captured.capture("info", reports_failures=False)

    logging.getLogger("aiormq.connection").warning("error when creating transport: %r", "x")

    assert lines() == []


def test_warnings_are_lines_with_a_place_and_the_text_of_the_application(lines):
    warnings.warn("the application is deprecated", DeprecationWarning, stacklevel=1)
    warnings.warn(f"row {LEAK_MARKER}", SAWarning, stacklevel=1)

    own, drivers = lines()
    assert (own["event"], own["category"]) == ("python_warning", "DeprecationWarning")
    assert own["text"] == "the application is deprecated"
    assert own["at"].startswith("test_captured.py:")
    assert drivers["category"] == "SAWarning"
    assert LEAK_MARKER not in json.dumps(drivers)


def fail() -> None:
    raise ValueError(LEAK_MARKER)


def in_a_thread() -> None:
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()


def in_a_destructor() -> None:
    class Fails:
        def __del__(self) -> None:
            fail()

    Fails()
    gc.collect()


def in_a_task() -> None:
    async def forgotten() -> None:
        fail()

    async def forget() -> None:
        asyncio.get_running_loop().set_exception_handler(captured.on_loop_error)
        task = asyncio.ensure_future(forgotten())
        await asyncio.sleep(0)
        del task
        gc.collect()

    asyncio.run(forget())


def in_a_callback() -> None:
    async def call() -> None:
        asyncio.get_running_loop().set_exception_handler(captured.on_loop_error)
        asyncio.get_running_loop().call_soon(lambda _value: fail(), LEAK_MARKER)
        await asyncio.sleep(0.01)

    asyncio.run(call())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("strike", [in_a_thread, in_a_destructor, in_a_task, in_a_callback])
def test_an_error_that_python_would_print_is_a_line_with_class_and_place(lines, strike):
    with captured.python_errors_logged():
        strike()

    (line,) = lines()
    assert (line["event"], line["level"], line["error"]) == (
        "uncaught_error",
        "error",
        "ValueError",
    )
    assert line["at"].startswith("fail:")
    assert LEAK_MARKER not in json.dumps(line)


def test_a_task_whose_error_is_never_retrieved_is_named_so(lines):
    with captured.python_errors_logged():
        in_a_task()

    assert lines()[0]["text"] == "Task exception was never retrieved"


def test_printed_lines_of_several_threads_are_lines_of_the_log(lines):
    def print_some() -> None:
        for number in range(5):
            print("a", number, file=sys.stderr)  # noqa: T201

    with captured.python_errors_logged():
        threads = [threading.Thread(target=print_some) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sys.stderr.write("two\nlines\n")

    found = lines()
    assert sorted(line["event"] for line in found) == sorted(
        [f"a {number}" for number in range(5)] * 4 + ["two", "lines"]
    )
    assert {line["component"] for line in found} == {"stderr"}


def test_a_traceback_that_the_application_logs_on_a_console_shows_no_values(lines, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    logs.configure(SharedSettings(log_format="console", log_level="info"), process="test")
    name_of_a_patient = LEAK_MARKER

    try:
        int(name_of_a_patient[:1])
    except ValueError:
        structlog.get_logger().exception("failed")

    assert "ValueError" in stream.getvalue()
    assert LEAK_MARKER not in stream.getvalue()
