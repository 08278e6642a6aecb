"""
The log of a consumer's process whose handler logs and then fails, with all that surrounds it.
"""

import json
import sys
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from outbox.transports.base import Outcome
from outbox.transports.sqlite.transport import SqliteTransport
from tests.support.builders import LEAK_MARKER, an_event, on_the_wire
from tests.support.processes import REPOSITORY, PreparedProcess

APPLICATION = f"""
import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from consumer import Consumer


@dataclass
class Beds:
    free: int


@asynccontextmanager
async def beds() -> AsyncIterator[Beds]:
    yield Beds(3)
    structlog.get_logger("myapp").info("lifespan ended")


async def traced(call, call_next):
    structlog.get_logger("myapp.trace").info("called")
    await call_next()


ward = Consumer("ward", bindings=["test.#"], lifespan=beds, middleware=[traced])


@ward.on_failure
async def report(failure, beds: Beds):
    name = type(failure.error).__name__
    structlog.get_logger("myapp.hook").info("failed", raised=name, beds=beds.free)
    raise RuntimeError("{LEAK_MARKER}")


@ward.on_dead_letter
async def page(dead_letter):
    cause = type(dead_letter.error.__cause__).__name__
    structlog.get_logger("myapp.hook").info("given up", reason=dead_letter.reason, cause=cause)


def warn():
    logging.getLogger("httpx").warning("HTTP Request: %s", "{LEAK_MARKER}")
    logging.getLogger("fhir.client").warning("Patient/%s", "{LEAK_MARKER}")
    logging.getLogger("myapp").warning("%d beds", 3)


@ward.on("test.happened")
async def handle(message, session, beds: Beds):
    structlog.get_logger("myapp.ward").info("begun", beds=beds.free)
    await asyncio.to_thread(warn)
    try:
        int("{LEAK_MARKER}")
    except ValueError as error:
        raise LookupError("no bed") from error
"""


@pytest.mark.parametrize("has_tracebacks", [False, True])
async def test_lines_of_a_handler_and_about_its_failure_name_the_message_and_show_no_data(
    tmp_path, sqlite_url, has_tracebacks
):
    (tmp_path / "app.py").write_text(APPLICATION)
    event = an_event(correlation_id="jane@example.org")
    message = replace(on_the_wire(event, exchange="health_data_exchange"), message_id="bed-4711")
    environment = {
        "PATH": "",
        "PYTHONPATH": str(REPOSITORY),
        "MQ_ENABLE_METRICS": "false",
        "MQ_LOG_TRACEBACKS": str(has_tracebacks).lower(),
        "MQ_REDACTED_LOGGERS": "fhir",
        "MQ_MAX_RETRIES": "0",
    }
    command = [sys.executable, "-m", "consumer", "run", "app:ward"]
    process = PreparedProcess(command, log=tmp_path / "log", env=environment, cwd=tmp_path)
    async with process as consumer, SqliteTransport(tmp_path / "broker.db").publisher() as broker:
        await consumer.wait_for_line("consumer_started")
        outcomes = await broker.publish([message], within=timedelta(seconds=10))
        assert outcomes == [Outcome.ACKED]
        await consumer.wait_for_line("message_dead_lettered")
        assert await consumer.terminate() == 0

    lines = {(line["component"], line["event"]): line for line in read(process.output)}
    begun = lines["myapp.ward", "begun"]
    redacted = [lines[name, "library_message"] for name in ("httpx", "fhir.client")]
    failed = lines["consumer", "handler_failed"]
    about = [begun, *redacted, lines["myapp", "3 beds"], failed]
    about.append(lines["consumer", "message_dead_lettered"])
    about += [lines["myapp.trace", "called"], lines["myapp.hook", "failed"]]
    about.append(lines["myapp.hook", "given up"])
    assert begun["beds"] == lines["myapp.hook", "failed"]["beds"] == 3
    assert lines["myapp.hook", "failed"]["raised"] == "LookupError"
    given_up = lines["myapp.hook", "given up"]
    assert (given_up["reason"], given_up["cause"]) == ("retries_exhausted", "ValueError")
    hook_failed = lines["consumer", "hook_failed"]
    assert (hook_failed["hook"], hook_failed["error"]) == ("on_failure", "RuntimeError")
    assert ("myapp", "lifespan ended") in lines
    for line in about:
        assert (line["consumer"], line["queue"]) == ("ward", "health_data_processing.ward")
        assert (line["type"], line["attempt"]) == ("test.happened", 1)
        assert line["message_id"] == begun["message_id"] != "bed-4711"
        assert line["correlation_id"] == begun["correlation_id"]
        assert line["correlation_id"].startswith("digest:")
    assert "message_id" not in lines["service", "stopped"]
    assert "jane" not in process.output
    assert (failed["error"], failed["at"].partition(":")[0]) == ("LookupError", "handle")
    trace = failed.pop("exception", "")
    assert has_tracebacks == ("with base 10: '" + LEAK_MARKER in trace)
    assert has_tracebacks == trace.endswith("LookupError: no bed")
    assert "transaction.py" not in trace
    assert has_tracebacks == (LEAK_MARKER in process.output)


def read(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]
