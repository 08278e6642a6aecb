"""
Two AsyncAPI documents: what a consumer read by the old one, and cannot read by the new one. Pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from consumer.contract.alternatives import pointed
from consumer.contract.keywords import Finding
from consumer.contract.narrowing import narrowings
from outbox import media_type
from outbox.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Comparison:
    """
    What a comparison has found, a line for each.

    Args:
        incompatible: Events and fields that can no longer be read.
        uncompared: Those of which that cannot be decided.

    """

    incompatible: list[str]
    uncompared: list[str]


@dataclass(frozen=True, slots=True)
class Received:
    """A message that a document receives."""

    content_type: str
    payload: Any

    @property
    def is_bytes(self) -> bool:
        """Whether any body is read as it is."""
        return bool(self.payload == {"type": "string", "format": "binary"})


def compare(stored: Any, current: Any) -> Comparison:
    """
    Compare the events that *stored* receives with those that *current* receives.

    Each event and payload that the stored document allows has to be readable by the current one.
    Raises ConfigurationError if *stored* is no AsyncAPI 3 document.
    """
    before, now = received(stored), received(current)
    incompatible: list[str] = []
    uncompared: list[str] = []
    for name, message in sorted(before.items()):
        if name not in now:
            incompatible.append(f"event {name}: has no handler any more")
            continue
        for finding in _findings(name, message, now[name], stored, current):
            place = finding.path.removeprefix(".") or "payload"
            lines = incompatible if finding.is_certain else uncompared
            lines.append(f"event {name}: {place}: {finding.text}")
    return Comparison(list(dict.fromkeys(incompatible)), list(dict.fromkeys(uncompared)))


def received(document: Any) -> dict[str, Received]:
    """
    The messages that *document* receives, by the type of their events.

    Raises ConfigurationError if it is no AsyncAPI 3 document.
    """
    if not isinstance(document, dict) or not str(document.get("asyncapi", "")).startswith("3."):
        raise ConfigurationError("--contract: is no AsyncAPI 3 document")
    try:
        return dict(_messages(document))
    except (AttributeError, KeyError, TypeError, IndexError, ValueError):
        raise ConfigurationError(
            "--contract: is no valid AsyncAPI 3 document, or refers to another file"
        ) from None


def _messages(document: dict[str, Any]) -> Iterator[tuple[str, Received]]:
    for operation in map(_following(document), document.get("operations", {}).values()):
        if operation["action"] != "receive":
            continue
        channel = _following(document)(operation["channel"])
        for key, reference in _references(operation, channel):
            message = _following(document)(reference)
            amqp = message.get("bindings", {}).get("amqp", {})
            name = message.get("name") or amqp.get("messageType") or key
            payload = message.get("payload", {})
            if "schemaFormat" in payload:
                payload = payload["schema"]
            default = document.get("defaultContentType", media_type.JSON)
            yield name, Received(message.get("contentType", default), payload)


def _following(document: dict[str, Any]) -> Any:
    """A function that returns what a reference of *document* refers to."""

    def target(value: Any) -> Any:
        for _ in range(_MOST_REFERENCES):
            if not isinstance(value, dict) or "$ref" not in value:
                return value
            value = pointed(document, value["$ref"])
        raise ValueError("references go round in a circle")

    return target


_MOST_REFERENCES = 100


def _references(operation: dict[str, Any], channel: dict[str, Any]) -> list[tuple[str, Any]]:
    """The messages of *operation*, or else all of its *channel*, by their keys."""
    if "messages" not in operation:
        return list(channel.get("messages", {}).items())
    return [(each["$ref"].rpartition("/")[2], each) for each in operation["messages"]]


def _findings(
    name: str, before: Received, now: Received, stored: Any, current: Any
) -> list[Finding]:
    if now.is_bytes or now.payload in ({}, True):
        return []
    if before.content_type != now.content_type:
        return [Finding("", "its content type is another one")]
    try:
        return narrowings(before.payload, now.payload, old_document=stored, new_document=current)
    except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError):
        raise ConfigurationError(
            f"--contract: event {name}: its payload is no JSON Schema"
        ) from None
    except RecursionError:
        return [Finding("", "cannot be compared: it is nested too deeply", is_certain=False)]
