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

import pytest
import structlog
from sqlalchemy.exc import SAWarning

from outbox.runtime import captured, log_context, logs, redacted_loggers
from outbox.settings import SharedSettings
from tests.support.builders import LEAK_MARKER


def test_the_text_and_the_extras_of_the_application_are_unchanged(lines):
    log = logging.getLogger("myapp.handlers")

    log.warning("took %s of %d %%", "a", 2, extra={"patients": 3, "event": "x", "error": "my own"})
    log.info("100% of it")
    log.log(25, "between two levels")
    log.debug("hidden")

    one, two, three = lines()
    assert one.pop("timestamp")
    assert one == {
        "component": "myapp.handlers",
        "event": "took a of 2 %",
        "level": "warning",
        "process": "test",
        "patients": 3,
        "error": "my own",
        "extra_event": "x",
    }
    assert (two["event"], two["level"]) == ("100% of it", "info")
    assert (three["event"], three["level"]) == ("between two levels", "info")


def test_a_record_with_wrong_arguments_is_a_line(lines):
    logging.getLogger("myapp").warning("%d of them", LEAK_MARKER)

    assert [line["event"] for line in lines()] == ["%d of them"]


class Detached:
    """A row whose text needs a session that has ended, as those of an ORM may."""

    def __repr__(self) -> str:
        raise LookupError(LEAK_MARKER)


def test_an_object_without_a_text_is_a_line_and_no_failure_of_the_handler(lines):
    log = logging.getLogger("myapp")

    log.warning("saved %s", Detached())
    log.warning("saved", extra={"row": Detached()})
    log.warning(Detached())

    assert [line["event"] for line in lines()] == ["saved %s", "saved", "Detached"]


def test_a_traceback_that_another_structlog_has_made_is_left_out(lines):
    error = ValueError(LEAK_MARKER)
    line = {"event": "failed", "ward": 3, "exc_info": error}
    processor = structlog.processors.format_exc_info

    logging.getLogger("myapp").error(processor(None, "error", line))
    logging.getLogger("myapp").error("failed", extra={"exception": f"Traceback: {error!r}"})

    written = lines()
    assert [each["event"] for each in written] == ["failed", "failed"]
    assert LEAK_MARKER not in str(written)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("aiormq.connection", "error when creating transport: …"),
        ("sqlalchemy.pool.impl", "error when creating transport: …"),
        ("asyncpg.pool", "error when creating transport: …"),
        ("httpx", "error when creating transport: …"),
        ("celery.app.trace", "error when creating transport: …"),
        # python-hl7 calls `getLogger(__file__)`
        ("/srv/lib/python3.11/site-packages/hl7/util.py", "error when creating transport: …"),
        ("myapp.raw.fhir", "error when creating transport: …"),
    ],
)
def test_the_words_of_a_driver_are_shown_without_values(lines, name, text):
    redacted_loggers.add(["myapp.raw"])
    logging.getLogger("myapp.rawer").warning("of the application")
    logging.getLogger(name).error("error when creating transport: %r", LEAK_MARKER)
    logging.getLogger(name).error("no place for " + LEAK_MARKER)  # noqa: G003
    try:
        fail()
    except ValueError:
        logging.getLogger(name).exception(LEAK_MARKER)

    own, one, two, three = lines()
    assert own["event"] == "of the application"
    assert (one["event"], one["component"], one["text"]) == ("library_message", name, text)
    assert two["text"] is None
    assert (three["text"], three["error"]) == (None, "ValueError")
    assert LEAK_MARKER not in json.dumps([one, two, three])


@pytest.mark.parametrize("name", ["asyncpg.pool", "httpx"])
def test_a_library_logs_nothing_below_a_warning(lines, name):
    logging.getLogger(name).info("not even this")

    assert lines() == []


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
    in_library = "/srv/lib/python3.11/site-packages/pydicom/valuerep.py"
    warnings.warn_explicit(f"Invalid value {LEAK_MARKER}", UserWarning, in_library, 5)
    warnings.warn_explicit("not of celery", UserWarning, "/srv/celery/app.py", 5)

    own, drivers, of_library, of_application = lines()
    assert of_application["text"] == "not of celery"
    assert of_library["at"] == "valuerep.py:5"
    assert LEAK_MARKER not in json.dumps(of_library)
    assert (own["event"], own["category"]) == ("python_warning", "DeprecationWarning")
    assert own["text"] == "the application is deprecated"
    assert own["at"].startswith("test_captured.py:")
    assert drivers["category"] == "SAWarning"
    assert LEAK_MARKER not in json.dumps(drivers)


def test_warnings_that_the_application_sends_to_a_logger_are_lines_without_values(lines):
    logging.captureWarnings(True)
    try:
        warnings.warn(f"Invalid value {LEAK_MARKER}", UserWarning, stacklevel=1)
    finally:
        logging.captureWarnings(False)

    [line] = lines()
    assert line["component"] == "py.warnings"
    assert LEAK_MARKER not in json.dumps(line)


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


def log_a_failure_by_python() -> None:
    logging.getLogger("myapp").exception("no result")  # noqa: LOG004 - its caller handles one


def log_a_failure_by_structlog() -> None:
    structlog.get_logger("myapp").error("no result", exc_info=True)


def log_a_failure_by_structlog_through_python() -> None:
    structlog.configure(
        processors=[structlog.stdlib.add_log_level, structlog.stdlib.render_to_log_kwargs],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    structlog.get_logger("myapp").error("no result", exc_info=True)


def log_a_failure_for_a_formatter_of_structlog() -> None:
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    structlog.get_logger("myapp").error("no result", exc_info=True)


@pytest.mark.parametrize("has_tracebacks", [False, True])
@pytest.mark.parametrize(
    "log_a_failure",
    [
        log_a_failure_by_python,
        log_a_failure_by_structlog,
        log_a_failure_by_structlog_through_python,
        log_a_failure_for_a_formatter_of_structlog,
    ],
)
def test_an_exception_that_the_application_logs_has_a_traceback_only_if_a_developer_wants_it(
    lines, monkeypatch, log_a_failure, has_tracebacks
):
    monkeypatch.setattr(logs, "_tracebacks", has_tracebacks)
    try:
        try:
            fail()
        except ValueError as error:
            raise KeyError("second") from error
    except KeyError:
        log_a_failure()

    (line,) = lines()
    assert (line["component"], line["event"], line["level"]) == ("myapp", "no result", "error")
    assert line["error"] == "KeyError"
    assert line["at"].startswith("test_an_exception_that_the_application_logs")
    if has_tracebacks:
        first, cause, second = line["exception"].partition("direct cause of the following")
        assert f"ValueError: {LEAK_MARKER}" in first
        assert cause
        assert second.endswith("KeyError: 'second'")
    else:
        assert LEAK_MARKER not in json.dumps(line)


def test_a_structlog_of_the_application_keeps_its_lines_and_does_not_change_ours(lines):
    stream, ours = io.StringIO(), logs.get("ours")
    ours.info("before")
    structlog.configure(
        processors=[log_context.add_log_context, structlog.processors.LogfmtRenderer()],
        logger_factory=structlog.PrintLoggerFactory(stream),
        wrapper_class=structlog.BoundLogger,
    )

    structlog.get_logger().info("theirs", patients=3)
    ours.info("after")
    logs.get("ours").info("later")

    assert stream.getvalue() == "patients=3 event=theirs process=test\n"
    assert [line["event"] for line in lines()] == ["before", "after", "later"]


def test_a_structlog_logger_has_its_name_in_the_line_and_is_redacted_by_it(lines):
    structlog.get_logger("myapp").warning("took %s", "a", patients=3)
    structlog.get_logger().warning("nameless")
    # As stamina logs the arguments of a call that it repeats.
    structlog.get_logger("stamina").warning("stamina.retry_scheduled", args=(LEAK_MARKER,))

    named, nameless, redacted = lines()
    assert (named["component"], named["event"], named["patients"]) == ("myapp", "took a", 3)
    assert "component" not in nameless
    assert (redacted["component"], redacted["event"]) == ("stamina", "library_message")
    assert LEAK_MARKER not in json.dumps(redacted)


def test_a_traceback_on_a_console_has_lines_of_its_own_and_no_local_variables(lines, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    settings = SharedSettings(_env_file=None, log_format="console", log_tracebacks=True)
    logs.configure(settings, process="test")
    name_of_a_patient = LEAK_MARKER

    try:
        int(name_of_a_patient[:1])
    except ValueError:
        structlog.get_logger().exception("failed")

    assert "\nValueError: invalid literal" in stream.getvalue()
    assert LEAK_MARKER not in stream.getvalue()


@pytest.mark.parametrize(
    ("variables", "is_terminal", "is_coloured"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
    ],
)
def test_a_log_for_people_has_colours_on_a_terminal_unless_they_are_refused(
    monkeypatch, variables, is_terminal, is_coloured
):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure(SharedSettings(log_format="console", log_level="info"), process="test")

    structlog.get_logger().info("started")

    assert ("\x1b[" in stream.getvalue()) is is_coloured
