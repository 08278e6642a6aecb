"""
Fields that name the message in each line that is logged while it is handled.
"""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
import structlog

from consumer import Message, OnLeaseExpired
from consumer.execution import calls
from consumer.execution.leased import Leased
from consumer.handler import Handler, Lease
from outbox.runtime import log_context

LEASE = Lease(timedelta(seconds=60), OnLeaseExpired.RETRY)


def a_message(**changes: Any) -> Message[Any]:
    return Message(
        **{
            "id": uuid4(),
            "type": "reading.taken",
            "payload": None,
            "idempotency_key": "key",
            "routing_key": "reading.taken",
            "occurred_at": datetime.now(UTC),
            "correlation_id": None,
            "headers": {},
            "attempt": 2,
            "redelivered": False,
            **changes,
        }
    )


async def warn(*_: Any) -> None:
    """A handler that logs in each way, and then fails."""
    logging.getLogger("myapp").warning("by Python")
    structlog.get_logger().warning("by structlog")
    await asyncio.to_thread(logging.getLogger("myapp").warning, "in a thread")
    await asyncio.create_task(warn_once())
    raise ValueError


async def warn_once() -> None:
    structlog.get_logger().warning("in a task")


async def in_a_transaction(*messages: Message[Any]) -> None:
    attempts: list[Any] = [SimpleNamespace(message=each, key=str(each.id)) for each in messages]
    handler = Handler("reading.taken", warn, batch_size=10, takes_list=len(messages) > 1)
    work = SimpleNamespace(session=None, is_open=True)
    with pytest.raises(ValueError, match=r"^$"):
        await calls.call(handler, attempts, cast("Any", work))


async def under_a_lease(message: Message[Any]) -> None:
    handler = Handler("reading.taken", warn, lease=LEASE)
    attempt: Any = SimpleNamespace(message=message)
    leased = Leased(cast("Any", None), cast("Any", None))
    # The consumer makes a task of each call.
    failed = await asyncio.create_task(leased._call_handler(handler, attempt))
    assert isinstance(failed.error, ValueError)


@pytest.mark.parametrize("handle", [in_a_transaction, under_a_lease])
async def test_lines_of_a_handler_and_of_its_threads_and_tasks_name_the_message(lines, handle):
    log_context.bind(consumer="etl", queue="q.etl")
    message = a_message(correlation_id="patient-4711")

    await handle(message)
    logging.getLogger("myapp").warning("after")

    *within, after = lines()
    assert [line["event"] for line in within] == [
        *("by Python", "by structlog", "in a thread", "in a task"),
    ]
    for line in (*within, after):
        assert (line["process"], line["consumer"], line["queue"]) == ("test", "etl", "q.etl")
    for line in within:
        assert (line["message_id"], line["type"]) == (str(message.id), "reading.taken")
        assert line["attempt"] == 2
        assert line["correlation_id"].startswith("digest:")
    assert {"message_id", "type", "attempt", "correlation_id"}.isdisjoint(after)


async def test_lines_of_a_handler_of_a_list_have_the_number_of_messages(lines):
    await in_a_transaction(a_message(), a_message())

    for line in lines():
        assert (line["type"], line["messages"]) == ("reading.taken", 2)
        assert {"message_id", "attempt", "correlation_id"}.isdisjoint(line)


def test_a_field_that_a_line_has_already_keeps_its_value(lines):
    token = log_context.HANDLED.set(lambda: {"attempt": 2, "type": "reading.taken"})
    logging.getLogger("myapp").warning("once more", extra={"attempt": "of mine"})
    structlog.get_logger().warning("once more", attempt="of mine")
    log_context.HANDLED.reset(token)

    for line in lines():
        assert (line["attempt"], line["type"]) == ("of mine", "reading.taken")
