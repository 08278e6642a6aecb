"""
Publishing the rows of one claim: side by side, but for those of one ordering key.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from outbox.errors import UnreadableMessage
from outbox.transports.base import Outcome, Publisher
from outbox.wire import codec, row_message
from outbox.wire.cloudevents_writer import CloudEventsWriter
from outbox.wire.encrypted import PLAINTEXT_REFUSED, require_encrypted
from relay.batch_size import BatchSize
from relay.ordering_key_hash import OrderingKeyHasher
from relay.row import Row
from relay.telemetry import Telemetry
from relay.waves import waves


class BatchPublisher:
    """
    Publishes rows to *exchange*, unless they name another one.

    *batch_size* gives the deadline of each publish, and learns how long it took. *cloudevents*
    writes the messages as CloudEvents too. With *require_encryption* plain bodies are refused.
    """

    def __init__(
        self,
        *,
        publisher: Publisher,
        exchange: str,
        key_hasher: OrderingKeyHasher,
        batch_size: BatchSize,
        telemetry: Telemetry,
        cloudevents: CloudEventsWriter | None,
        require_encryption: bool = False,
    ) -> None:
        self._publisher = publisher
        self._exchange = exchange
        self._key_hasher = key_hasher
        self._size = batch_size
        self._telemetry = telemetry
        self._cloudevents = cloudevents
        self._to_message = self._encrypted_message if require_encryption else self._any_message

    async def publish(self, rows: Sequence[Row]) -> dict[int, Outcome]:
        """
        Publish *rows*, those of a key one after another, until one of the key fails.

        Returns outcomes by row id; a row without an outcome was not published. A request whose
        deadline has passed, by the clock of the database, is not published either.
        """
        began = _now()
        outcomes = {row.id: Outcome.EXPIRED for row in rows if row.values.get("is_expired")}
        size = 0
        failed: set[str] = set()
        live = [row for row in rows if row.id not in outcomes] if outcomes else rows
        for wave in waves(live):
            if Outcome.UNKNOWN in outcomes.values():
                break
            sendable = [row for row in wave if row.ordering_key not in failed] if failed else wave
            wave_outcomes, wave_size = await self._publish_wave(sendable)
            outcomes |= wave_outcomes
            size += wave_size
            if any(outcome is not Outcome.ACKED for outcome in wave_outcomes.values()):
                failed |= {
                    row.ordering_key
                    for row in sendable
                    if row.ordering_key is not None and outcomes[row.id] is not Outcome.ACKED
                }
        took = timedelta(seconds=_now() - began)
        self._telemetry.published(rows, outcomes, took=took)
        self._size.published(
            rows=len(rows), size=size, took=took, unknown=Outcome.UNKNOWN in outcomes.values()
        )
        return outcomes

    async def _publish_wave(self, rows: Sequence[Row]) -> tuple[dict[int, Outcome], int]:
        """Publish *rows* at the same time; returns outcomes by row id, and the bytes of bodies."""
        outcomes: dict[int, Outcome] = {}
        size = 0
        messages: dict[int, codec.WireMessage] = {}
        for row in rows:
            try:
                messages[row.id] = self._to_message(row)
            except UnreadableMessage as error:
                is_plain = error.code == PLAINTEXT_REFUSED
                outcomes[row.id] = Outcome.PLAIN if is_plain else Outcome.MALFORMED
                self._telemetry.unreadable(row, error)
        if messages:
            began = _now()
            size = sum(len(message.body) for message in messages.values())
            within = self._size.deadline(size)
            confirms = await self._publisher.publish(list(messages.values()), within=within)
            outcomes |= zip(messages, confirms, strict=True)
            if Outcome.UNKNOWN not in confirms:
                self._size.measured(size, took=timedelta(seconds=_now() - began))
        return outcomes, size

    def _encrypted_message(self, row: Row) -> codec.WireMessage:
        """Raises UnreadableMessage also if the body is not encrypted."""
        require_encrypted(row.values["content_encoding"])
        return self._any_message(row)

    def _any_message(self, row: Row) -> codec.WireMessage:
        """Raises UnreadableMessage if *row* is no valid event."""
        message = row_message.to_message(
            row.values, exchange=self._exchange, lane_of=self._key_hasher.lane
        )
        return message if self._cloudevents is None else self._cloudevents.written(message)


def _now() -> float:
    """Seconds that never go back."""
    return asyncio.get_running_loop().time()
