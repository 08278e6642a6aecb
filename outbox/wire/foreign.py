"""
Messages that follow the conventions of other publishers: CloudEvents, and AMQP 1.0.

RabbitMQ translates messages of AMQP 1.0 for clients of AMQP 0-9-1, as the versions 4.0 and 4.3 do:

    in AMQP 1.0                       in AMQP 0-9-1
    message-id                        message_id; one of bytes is the header x-message-id
    annotation x-basic-type           type, unless the body is a value
    application-properties            headers
    creation-time                     timestamp
    a body of data                    the body
    a body of a value or a sequence   its AMQP 1.0 encoding, and the type amqp-1.0
"""

from dataclasses import replace
from typing import Final

from outbox.errors import UnreadableMessage
from outbox.wire import cloudevents
from outbox.wire.codec import WireMessage

ENCODED: Final = "amqp-1.0"
"""The type of a message whose body is encoded as in AMQP 1.0."""
_MESSAGE_ID_HEADER: Final = "x-message-id"
HEADERS = cloudevents.MARKS | {_MESSAGE_ID_HEADER}
"""`read` changes no message that has none of them, is not `ENCODED` and not `is_structured`."""

is_structured = cloudevents.is_structured

_VALUE = b"\x00\x53\x77"
"""The descriptor of the section amqp-value."""

_BYTES_OF_SIZE = {0xA0: 1, 0xA1: 1, 0xB0: 4, 0xB1: 4}
"""Of the constructors of bytes and strings: how many bytes their size takes."""


def read(message: WireMessage) -> WireMessage:
    """
    *message* with the properties and headers that our own messages have.

    Raises UnreadableMessage with a reason code; its detail names what is missing or wrong.
    """
    if message.type == ENCODED:
        message = replace(message, body=_text_of_value(message.body), type=None)
    if message.message_id is None:
        identity = message.headers.get(_MESSAGE_ID_HEADER)
        if isinstance(identity, bytes | bytearray):
            message = replace(message, message_id=identity.hex() or None)
    return cloudevents.read(message) if cloudevents.is_cloudevent(message) else message


def _text_of_value(body: bytes) -> bytes:
    """The bytes of the string, or of the bytes, that *body* encodes."""
    if body.startswith(_VALUE) and len(body) > len(_VALUE):
        start = len(_VALUE) + 1
        sized = _BYTES_OF_SIZE.get(body[len(_VALUE)])
        if sized is not None:
            size = int.from_bytes(body[start : start + sized], "big")
            if len(body) == start + sized + size:
                return body[start + sized :]
    raise UnreadableMessage("malformed", "amqp-value")
