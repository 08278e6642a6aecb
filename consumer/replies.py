"""
The consumer that stores replies for the callers of a service.

    consumer run consumer.replies:replies            # in a process of its own

    async with consumer.replies.running():           # or in the process of the callers
        reply = await outbox.request(sessions, event, timeout=timedelta(seconds=10))

It reads the durable queue MQ_REPLY_QUEUE and writes to the database of the callers, so a reply
outlives the process that has asked.

| a crash …                                   | leads to                                       |
|---------------------------------------------|------------------------------------------------|
| of the caller, after it has asked           | the reply is stored; any process may read it   |
| of this consumer, before its COMMIT         | the broker delivers the reply again            |
| of this consumer, before its ack            | the reply comes again, and is a duplicate      |
| of the responder, before its COMMIT         | no reply; the request is handled again         |
| of the responder or its relay, after it     | the reply is in its outbox, and is published   |
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, ClassVar

import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncSession

from consumer.consumer import Consumer
from consumer.message import Message
from consumer.outcomes import Reject
from consumer.reply_report import ReplyReport
from consumer.service import serve
from consumer.settings import ConsumerSettings
from consumer.storage import incoming_replies
from consumer.storage.incoming_replies import Incoming, Waiting
from outbox.errors import ConfigurationError
from outbox.requests.reading import RETENTION, purge_in
from outbox.requests.reply import code_of, stored_columns
from outbox.requests.waiting import wake
from outbox.requests.wire import ANSWERED, FAILED
from outbox.settings import load
from outbox.wire.encrypted import PrivateText

UNKNOWN_REQUEST = "unknown_request"
"""The reason code of a reply to a request that this database does not have."""

_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_PURGED_WITH_EACH = 20


class ReplyCollector(Consumer):
    """
    A consumer that stores replies in the table `replies`, and purges those that are old.

    Args:
        name: As of every consumer; two services in one schema need two names.
        queue: The queue that the callers name. Default is MQ_REPLY_QUEUE.
        retention: How long a request and its reply are kept after the deadline.

    Raises ConfigurationError, also if *retention* is not positive.

    """

    collects_replies: ClassVar[bool] = True

    def __init__(
        self, name: str = "replies", *, queue: str | None = None, retention: timedelta = RETENTION
    ) -> None:
        super().__init__(name, bindings=(), queue=queue)
        given: object = retention
        if not isinstance(given, timedelta) or given <= timedelta(0):
            raise ConfigurationError(f"consumer {name}: retention must be a positive timedelta")
        self._retention = retention
        self._report: ReplyReport | None = None
        self.on(ANSWERED)(self._answered)
        self.on(FAILED)(self._failed)

    def register_metrics(self, registry: CollectorRegistry) -> None:
        self._report = ReplyReport(registry)

    async def _answered(self, message: Message[bytes], session: AsyncSession) -> None:
        correlation_id, found = await _request_of(message, session)
        outcome = incoming_replies.change(found, is_failure=False)
        if outcome is not Incoming.DUPLICATE:
            body = stored_columns(found.request_id, message.payload, message.content_type)
            await incoming_replies.store(session, correlation_id, code=None, body=body)
        await self._stored(session, correlation_id, outcome, found)

    async def _failed(self, message: Message[Any], session: AsyncSession) -> None:
        correlation_id, found = await _request_of(message, session)
        outcome = incoming_replies.change(found, is_failure=True)
        if outcome is not Incoming.DUPLICATE:
            code = code_of(message.payload)
            # Another program may have written anything there.
            code = code if _CODE.fullmatch(code) else "unknown"
            await incoming_replies.store(session, correlation_id, code=code, body={})
        await self._stored(session, correlation_id, outcome, found)

    async def _stored(
        self, session: AsyncSession, correlation_id: str, outcome: Incoming, found: Waiting
    ) -> None:
        await purge_in(session, older_than=self._retention, limit=_PURGED_WITH_EACH)

        def committed(_session: object) -> None:
            wake(correlation_id)
            if self._report is not None:
                self._report.stored(outcome.value, age=found.age)

        sa.event.listen(session.sync_session, "after_commit", committed, once=True)


async def _request_of(message: Message[Any], session: AsyncSession) -> tuple[str, Waiting]:
    """The correlation id of *message* as it was sent, and its request, whose row is locked."""
    sent = message.correlation_id
    correlation_id = sent.digest if isinstance(sent, PrivateText) else sent
    found = None
    if correlation_id is not None:
        found = await incoming_replies.lock(session, correlation_id)
    if correlation_id is None or found is None:
        # Perhaps the queue of another service: nothing is lost, and an operator sees it.
        raise Reject(UNKNOWN_REQUEST)
    return correlation_id, found


replies = ReplyCollector()
"""The consumer of `consumer run consumer.replies:replies`."""


@asynccontextmanager
async def running(
    collector: ReplyCollector | None = None, *, settings: ConsumerSettings | None = None
) -> AsyncIterator[None]:
    """
    Store replies in this process while the block runs, and wake its waiters at once.

    *collector* is `replies` by default, and *settings* are those of the environment. Raises
    ConfigurationError and Unavailable while it starts; later it waits for servers.
    """
    stop = asyncio.Event()
    chosen = settings or load(ConsumerSettings)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(serve(collector or replies, chosen, stop, names_process=False))
            try:
                yield
            finally:
                stop.set()
    except BaseExceptionGroup as found:
        if len(found.exceptions) == 1:
            raise found.exceptions[0] from None
        raise
