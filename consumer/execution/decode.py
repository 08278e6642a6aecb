"""
Decodes a delivery to an attempt, or to a verdict if its handler must not be called: pure.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from pydantic import RootModel, ValidationError

from consumer.execution.reading import IN_CLEAR, Reading
from consumer.handler import Handler
from consumer.message import Message
from consumer.outcomes import LONGEST_WAIT
from consumer.payload_type import PayloadType
from consumer.verdict import (
    ERASED,
    EXPIRED,
    FILTERED,
    NO_HANDLER,
    TOO_OLD,
    DeadLetter,
    TryAgain,
    Verdict,
    Wait,
)
from outbox import json_text, media_type, model_json
from outbox.errors import UnreadableMessage
from outbox.transports.delivery import Delivery
from outbox.wire import codec
from outbox.wire.compression import ZSTD_MISSING
from outbox.wire.encrypted import KEY_UNKNOWN, SUBJECT_ERASED, PrivateText
from outbox.wire.envelope import Envelope

_UNSUPPORTED_DELAY = timedelta(seconds=5)

_WAITED_FOR = {NO_HANDLER, KEY_UNKNOWN, ZSTD_MISSING}

_HELD_FOR = timedelta(seconds=5)
"""A message that comes less than this too early waits in the process."""


# Not frozen: a frozen dataclass takes three times as long to create.
@dataclass(slots=True)
class Attempt:
    """
    Attempt *number*, from 1 on, at *delivery*, whose body was read by *reading*.

    What *envelope* has may be stored in clear; *message* has what was encrypted.
    """

    delivery: Delivery
    envelope: Envelope
    message: Message[Any]
    number: int
    reading: Reading = IN_CLEAR

    @property
    def key(self) -> str:
        """The idempotency key by which it is deduplicated."""
        return self.envelope.idempotency_key

    @property
    def may_have_failed(self) -> bool:
        """Whether an attempt before may have failed; a lost ack hides the number of attempts."""
        return self.number > 1 or self.delivery.redelivered


class FilterFailed(Exception):  # noqa: N818 - no error of ours
    """The filter of a handler raised *error* for *message*."""

    def __init__(self, message: Message[Any], error: BaseException) -> None:
        super().__init__()
        self.message = message
        self.error = error


def decode_delivery(
    delivery: Delivery,
    handler: Handler | None,
    *,
    now: datetime,
    oldest: datetime,
    unsupported_wait: timedelta = timedelta(0),
    reading: Reading = IN_CLEAR,
) -> Attempt | Verdict:
    """
    The attempt for which to call *handler*, or a verdict on *delivery* without a call.

    A message that was recorded before *oldest* may have been completed and purged. One that only a
    later version of the program can handle waits for it for *unsupported_wait*, and so does one
    whose key, or the package for whose compression, this process does not have yet. A handler that
    answers is not called for a request whose deadline has passed; one that does not answer is, as
    the request is an event like others to it. Raises FilterFailed and KeysUnavailable.
    """
    number = delivery.headers.failed_attempts + 1
    if early := _too_early(delivery, now):
        return early
    if handler is not None and handler.answers and _is_expired(delivery, now):
        return EXPIRED
    try:
        attempt = _read(delivery, handler, number, reading, oldest=oldest)
    except UnreadableMessage as error:
        if error.code == SUBJECT_ERASED:
            return ERASED
        return _unsupported(delivery, error, now, unsupported_wait) or DeadLetter(
            number, error.code, error.detail
        )
    if handler is None or handler.filter is None:
        return attempt
    try:
        return attempt if handler.filter(attempt.message) else FILTERED
    except BaseException as error:  # noqa: BLE001 - the user's filter
        raise FilterFailed(attempt.message, error) from None


def is_too_old(decoded: Attempt | Verdict) -> bool:
    """Whether age is the only reason to dead-letter the message."""
    return isinstance(decoded, DeadLetter) and decoded.code == TOO_OLD


def read_message(
    envelope: Envelope, payload_type: PayloadType, *, attempt: int, redelivered: bool
) -> Message[Any]:
    """
    The message in *envelope*, its body read as a payload of this type.

    Raises UnreadableMessage with the code `malformed` or `schema_unsupported`; its detail names
    fields and never their values.
    """
    return Message(
        id=envelope.id,
        type=envelope.type,
        payload=_payload(envelope, payload_type),
        idempotency_key=envelope.idempotency_key,
        routing_key=envelope.routing_key,
        occurred_at=envelope.occurred_at,
        correlation_id=envelope.correlation_id,
        headers=envelope.headers,
        attempt=attempt,
        redelivered=redelivered,
        content_type=envelope.content_type,
        reply_to=envelope.reply_to,
        expires_at=envelope.expires_at,
    )


def _read(
    delivery: Delivery,
    handler: Handler | None,
    number: int,
    reading: Reading,
    *,
    oldest: datetime,
) -> Attempt:
    """Raises UnreadableMessage with the reason code for which it is dead-lettered."""
    if delivery.decode_error is not None:
        raise UnreadableMessage(delivery.decode_error, delivery.decode_detail)
    envelope = codec.from_wire(delivery.message, delivery.headers, reading.decrypt)
    if handler is None:
        raise UnreadableMessage(NO_HANDLER)
    message = read_message(
        envelope, handler.payload_type, attempt=number, redelivered=delivery.redelivered
    )
    if envelope.recorded_at is not None and envelope.recorded_at < oldest:
        raise UnreadableMessage(TOO_OLD)
    if isinstance(envelope.correlation_id, PrivateText):
        envelope.correlation_id = envelope.correlation_id.digest
    return Attempt(delivery, envelope, message, number, reading)


def _unsupported(
    delivery: Delivery, error: UnreadableMessage, now: datetime, wait: timedelta
) -> TryAgain | None:
    """
    The verdict on a message that a later version of the program may handle, or one with more keys.

    A deployment replaces processes one by one, so that old ones get messages of new types, and a
    new key reaches consumers one by one.
    """
    headers = delivery.headers
    if error.code not in _WAITED_FOR and not headers.is_newer:
        return None
    # No clock of ours writes a time in the future.
    since = min(headers.unsupported_since or now, now)
    left = since + wait - now
    if left <= timedelta(0):
        return None
    delay = min(_UNSUPPORTED_DELAY, left)
    return TryAgain(
        headers.failed_attempts,
        delay,
        failed=False,
        unsupported_since=since,
        unsupported_because=error.code,
        unsupported_detail=error.detail,
    )


def _too_early(delivery: Delivery, now: datetime) -> Wait | TryAgain | None:
    """The verdict on a copy that came too early, because no retry queue has a longer delay."""
    not_before = delivery.headers.not_before
    if not_before is None or not now < not_before <= now + LONGEST_WAIT:
        # No consumer asks for a longer wait: another program has written the header.
        return None
    left = not_before - now
    if left < _HELD_FOR:
        return Wait(left)
    return TryAgain(delivery.headers.failed_attempts, left, failed=False)


def _is_expired(delivery: Delivery, now: datetime) -> bool:
    """Whether the deadline of a request has passed, by the clock of this process."""
    expires_at = delivery.headers.expires_at
    return expires_at is not None and now >= expires_at


def _payload(envelope: Envelope, payload_type: PayloadType) -> Any:
    model = payload_type.model
    if payload_type.is_bytes:
        return envelope.body
    if model is None:
        is_json = media_type.is_json(envelope.content_type)
        return _json(envelope.body) if is_json else envelope.body
    if not media_type.may_be_json(envelope.content_type):
        raise UnreadableMessage("malformed", "content_type")
    # Pydantic reads the text itself, as it is strict about JSON in another way than about values.
    # It accepts keys that are there twice, and infinite numbers.
    _json(envelope.body)
    try:
        read = model_json.read(model, envelope.body)
    except ValidationError as error:
        raise UnreadableMessage(
            "schema_unsupported", model_json.declared_fields(model, error)
        ) from None
    except Exception as error:  # noqa: BLE001
        # The user's validator may raise anything, and its text may quote the body.
        raise UnreadableMessage("schema_unsupported", type(error).__name__) from None
    return cast("RootModel[Any]", read).root if payload_type.is_wrapped else read


def _json(body: bytes) -> Any:
    try:
        return json_text.read(body)
    except ValueError:
        # UnicodeDecodeError and JSONDecodeError are ValueErrors, and both hold the body.
        raise UnreadableMessage("malformed", "body") from None
