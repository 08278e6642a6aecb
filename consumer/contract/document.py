"""
The AsyncAPI 3 document of a consumer: pure.

It names the queue, the exchange and the bindings, an operation and a message for each event that
the consumer receives, and for each that the service sends. It has no server of a deployment and no
secret, and the same handlers and settings make the same document, so it can be committed.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from consumer import checks, exchanges
from consumer.consumer import Consumer
from consumer.contract.schemas import DEFINITIONS, Mode, Schemas, schemas
from consumer.handler import Handler
from consumer.settings import ConsumerSettings
from outbox import media_type
from outbox.exchange_rules import kinds_of
from outbox.transports.topology import Binding
from outbox.transports.user_topology import queue_bindings
from outbox.wire import headers

ASYNCAPI = "3.0.0"

_BINDING_VERSION = "0.3.0"
_TRAIT = {"$ref": "#/components/messageTraits/event"}


def document(
    consumer: Consumer,
    settings: ConsumerSettings,
    *,
    version: str,
    title: str | None = None,
    sent: Mapping[str, type[BaseModel]] | None = None,
) -> dict[str, Any]:
    """
    The document of *consumer*, and of the events *sent* by its service, by event type.

    *version* is that of the service, and *title* its name; default is the name of the consumer.
    Raises ConfigurationError if the payload of an event has no JSON Schema.
    """
    handlers = dict(sorted(consumer.handlers.items()))
    models = dict(sorted((sent or {}).items()))
    found = schemas({name: each.payload_type for name, each in handlers.items()}, models)
    received_messages = {f"receive.{name}": name for name in handlers}
    sent_messages = {f"send.{name}": name for name in models}
    messages = {
        **{
            key: _message(name, found, "validation", handlers[name])
            for key, name in received_messages.items()
        },
        **{key: _message(name, found, "serialization") for key, name in sent_messages.items()},
    }
    return {
        "asyncapi": ASYNCAPI,
        "info": {"title": title or consumer.name, "version": version},
        "defaultContentType": media_type.JSON,
        "servers": {"broker": _server()},
        "channels": {
            **_channels(consumer, settings, list(received_messages)),
            **{
                key: _sent_channel(key, models[name], name, settings)
                for key, name in sent_messages.items()
            },
        },
        "operations": {
            **{
                key: _receive(key, handlers[name], settings)
                for key, name in received_messages.items()
            },
            **{key: _send(key) for key in sent_messages},
        },
        "components": {
            "messages": messages,
            "messageTraits": {"event": _trait()},
            "schemas": found.definitions,
        },
    }


def _server() -> dict[str, Any]:
    return {
        "host": "{host}",
        "protocol": "amqp",
        "variables": {"host": {"description": "The broker of a deployment, as in MQ_BROKER_URL."}},
    }


def _channels(
    consumer: Consumer, settings: ConsumerSettings, messages: list[str]
) -> dict[str, Any]:
    """The queue of *consumer*, and each pattern by which the exchange routes messages to it."""
    queue = checks.queues(consumer, settings)
    references = {key: _reference("components/messages", key) for key in messages}
    bound = queue_bindings(queue.name, consumer.bindings, settings.main_exchange)
    kinds = kinds_of(exchanges.declared(consumer, settings), main_exchange=settings.main_exchange)
    return {
        "queue": {
            "address": queue.name,
            "description": "The queue of the consumer.",
            "messages": references,
            "bindings": _amqp(
                {"is": "queue", "queue": {"name": queue.name, **_DURABLE, "exclusive": False}}
            ),
            "x-dead-queue": queue.dead,
            "x-single-active-consumer": consumer.ordered,
        },
        **{
            f"binding.{number}": {
                "address": each.pattern or None,
                "description": _how(each),
                "messages": references,
                "bindings": _exchange(each.exchange, kinds.get(each.exchange)),
            }
            for number, each in enumerate(bound, 1)
        },
    }


_DURABLE = {"durable": True, "autoDelete": False}


def _how(binding: Binding) -> str:
    if binding.headers:
        asked = ", ".join(sorted(binding.headers))
        return f"Messages reach the queue that have {binding.match} of the headers: {asked}."
    return "Routing keys that reach the queue: * is a word, # are any words."


def _exchange(name: str, kind: str | None) -> dict[str, Any]:
    known = {} if kind is None else {"type": kind}
    return _amqp({"is": "routingKey", "exchange": {"name": name, **known, **_DURABLE}})


def _sent_channel(
    key: str, model: type[BaseModel], name: str, settings: ConsumerSettings
) -> dict[str, Any]:
    # A model that makes its own event chooses the routing key by its values.
    address = None if hasattr(model, "to_event") else name
    return {
        "address": address,
        "messages": {key: _reference("components/messages", key)},
        "bindings": _exchange(settings.main_exchange, "topic"),
    }


def _receive(key: str, handler: Handler, settings: ConsumerSettings) -> dict[str, Any]:
    retry = handler.retry or settings.retry_policy
    return {
        "action": "receive",
        "channel": _reference("channels", "queue"),
        "messages": [_reference("channels/queue/messages", key)],
        "bindings": _amqp({"ack": True}),
        "x-retry": {
            "max-retries": retry.max_retries,
            "delays-seconds": [delay.total_seconds() for delay in retry.delays],
        },
    }


def _send(key: str) -> dict[str, Any]:
    return {
        "action": "send",
        "channel": _reference("channels", key),
        "messages": [_reference(f"channels/{key}/messages", key)],
        "bindings": _amqp({"deliveryMode": 2, "mandatory": True}),
    }


def _message(
    name: str, found: Schemas, mode: Mode, handler: Handler | None = None
) -> dict[str, Any]:
    payload = found.payloads[name, mode]
    is_bytes = handler is not None and handler.payload_type.is_bytes
    return {
        "name": name,
        **_text_of(payload, found),
        "traits": [_TRAIT],
        "contentType": media_type.UNKNOWN if is_bytes else media_type.JSON,
        "payload": payload,
        "bindings": _amqp({"messageType": name}),
    }


def _text_of(payload: Any, found: Schemas) -> dict[str, str]:
    """The title of *payload*, for readers of the document."""
    definition = found.definitions.get(payload.get("$ref", "").removeprefix(DEFINITIONS), payload)
    return {"title": definition["title"]} if "title" in definition else {}


def _trait() -> dict[str, Any]:
    """Headers and properties that every event has, however its payload looks."""
    return {
        "correlationId": {
            "description": "The AMQP property correlation_id.",
            "location": "$message.header#/correlation_id",
        },
        "headers": {
            "type": "object",
            "description": "The headers of the wire format; messages of other publishers have "
            "none of them.",
            "properties": {
                headers.VERSION_HEADER: {"const": headers.VERSION},
                headers.IDEMPOTENCY_KEY_HEADER: {"type": "string", "minLength": 1},
                headers.OCCURRED_AT_HEADER: {"type": "string", "format": "date-time"},
                headers.RECORDED_AT_HEADER: {"type": "integer", "minimum": 0},
                headers.LANE_HEADER: {"type": "string", "pattern": "^[0-9a-f]{32}$"},
            },
        },
    }


def _amqp(binding: Mapping[str, Any]) -> dict[str, Any]:
    return {"amqp": {**binding, "bindingVersion": _BINDING_VERSION}}


def _reference(place: str, key: str) -> dict[str, str]:
    return {"$ref": f"#/{place}/{key}"}
