"""
How a consumer decrypts a batch, with sources of keys that block, and what it logs of it.
"""

import asyncio
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from consumer.execution.decode import Attempt, decode_delivery
from consumer.execution.decryption import Decryption
from consumer.execution.executor import BEFORE_ALL
from consumer.handler import Handler
from consumer.log_fields import fields_of, ids_of
from consumer.verdict import DeadLetter, TryAgain, Verdict
from outbox import Event
from outbox.encryption.decryptor import Decryptor
from outbox.encryption.encryptor import Encryptor
from outbox.encryption.key_ring import KeyRing, new_ring
from outbox.encryption.keys import KeyProvider, WrappedKey
from outbox.errors import KeysUnavailable
from outbox.runtime import spans
from outbox.runtime.loggable_ids import is_loggable
from outbox.transports.delivery import Delivery
from outbox.wire import row_codec
from outbox.wire.codec import WireMessage
from tests.support.builders import AN_INSTANT, an_event, on_the_wire

A_CORRELATION_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


class Service:
    """A key management service, which answers in the time of a request."""

    def __init__(self, ring: KeyRing) -> None:
        self.ring = ring
        self.is_reachable = True
        self.threads: list[int] = []

    def digest_key(self) -> bytes:
        return self.ring.digest_key()

    def wrap(self, key: bytes, /) -> WrappedKey:
        return self.ring.wrap(key)

    def unwrap(self, wrapped: WrappedKey, /) -> bytes:
        self.threads.append(threading.get_ident())
        if not self.is_reachable:
            raise KeysUnavailable("the service cannot be reached")
        return self.ring.unwrap(wrapped)


def a_message(keys: KeyProvider, **fields: Any) -> WireMessage:
    event: Event = an_event(**fields)
    row = Encryptor(keys).encrypted(row_codec.to_row(event), compression="none")
    columns = ("body", "content_encoding", "correlation_id", "headers", "idempotency_key")
    return on_the_wire(event, exchange="main", **{name: row[name] for name in columns})


async def verdicts(decryption: Decryption, *messages: WireMessage) -> list[Attempt | Verdict]:
    now = datetime.now(UTC)
    async with decryption.reading(messages) as reading:
        return [
            decode_delivery(
                Delivery(message, 0, redelivered=False),
                Handler("test.happened"),
                now=now,
                oldest=BEFORE_ALL,
                reading=reading,
            )
            for message in messages
        ]


async def test_a_service_is_asked_in_a_thread_and_once_for_each_data_key() -> None:
    service = Service(new_ring(AN_INSTANT))
    decryption = Decryption(Decryptor(service))
    producer = [a_message(service) for _ in range(2)]

    both = await asyncio.gather(*(verdicts(decryption, *producer) for _ in range(2)))

    assert all(isinstance(each, Attempt) for batch in both for each in batch)
    assert len(service.threads) == 2
    assert threading.get_ident() not in service.threads


async def test_a_service_is_asked_for_several_data_keys_at_the_same_time() -> None:
    """A consumer that was stopped for a day meets thousands of them, one after another."""
    together = threading.Barrier(3)

    class Slow(Service):
        def unwrap(self, wrapped: WrappedKey, /) -> bytes:
            together.wait(10)
            return super().unwrap(wrapped)

    service = Slow(new_ring(AN_INSTANT))
    of_three_producers = [a_message(service) for _ in range(3)]

    found = await verdicts(Decryption(Decryptor(service)), *of_three_producers)

    assert all(isinstance(each, Attempt) for each in found)


async def test_a_data_key_that_a_service_refuses_is_not_asked_for_again_in_the_event_loop() -> (
    None
):
    service = Service(new_ring(AN_INSTANT))
    unknown = a_message(new_ring(AN_INSTANT))
    changed = a_message(service)
    changed.body = changed.body[:60] + bytes([changed.body[60] ^ 1]) + changed.body[61:]

    found = await verdicts(Decryption(Decryptor(service)), unknown, changed)

    codes = [each.code for each in found if isinstance(each, DeadLetter)]
    assert codes == ["key_unknown", "body_not_authentic"]
    assert threading.get_ident() not in service.threads


async def test_a_consumer_is_ready_once_the_keys_that_it_lacked_can_be_read() -> None:
    service = Service(new_ring(AN_INSTANT))
    decryption = Decryption(Decryptor(service))
    await decryption.ready()
    service.is_reachable = False
    with pytest.raises(KeysUnavailable):
        await verdicts(decryption, a_message(service))
    with pytest.raises(KeysUnavailable):
        await decryption.ready()
    service.is_reachable = True
    await decryption.ready()


async def test_logs_and_spans_have_the_digest_of_an_encrypted_correlation_id() -> None:
    """The id is a UUID, which is logged as it is if it was not encrypted."""
    assert is_loggable(A_CORRELATION_ID)
    ring = new_ring(AN_INSTANT)
    sent = a_message(ring, correlation_id=A_CORRELATION_ID)

    [attempt] = await verdicts(Decryption(Decryptor(ring)), sent)

    assert isinstance(attempt, Attempt)
    assert attempt.message.correlation_id == A_CORRELATION_ID
    digest = sent.correlation_id
    assert attempt.envelope.correlation_id == digest
    assert fields_of(attempt.message)["correlation_id"] == ids_of(sent)["correlation_id"] == digest
    attributes = spans.of_message(attempt.message.id, attempt.message.correlation_id)
    assert attributes["messaging.message.conversation_id"] == digest


async def test_a_consumer_without_keys_waits_for_them() -> None:
    sent = Delivery(a_message(new_ring(AN_INSTANT)), 0, redelivered=False)
    now = datetime.now(UTC)
    wait = {"unsupported_wait": datetime.now(UTC) - AN_INSTANT}

    found = decode_delivery(sent, Handler("test.happened"), now=now, oldest=BEFORE_ALL, **wait)

    assert isinstance(found, TryAgain)
    assert found.failed is False
