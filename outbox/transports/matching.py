"""
Whether a binding takes a message, as AMQP 0-9-1 and RabbitMQ define it: pure.

    topic      the words of the routing key match the pattern
    direct     the routing key is the pattern
    fanout     every message
    headers    the headers of the message have the values that the binding asks for
"""

from collections.abc import Mapping
from typing import Any

from outbox.transports.topology import HeaderPattern, Match, matches

KINDS = frozenset({"topic", "direct", "fanout", "headers"})
"""The kinds of exchanges whose bindings tell where a message goes."""


def takes(kind: str, pattern: str, routing_key: str) -> bool:
    """Return whether an exchange of a *kind* that reads no headers takes *routing_key*."""
    match kind:
        case "topic":
            return matches(pattern, routing_key)
        case "direct":
            return pattern == routing_key
        case _:
            return kind == "fanout"


def has_headers(wanted: HeaderPattern | None, match: Match, headers: Mapping[str, Any]) -> bool:
    """
    Return whether *headers* of a message have the *wanted* ones: all of them, or any.

    None as a wanted value is any value. A value of another type is another value. A binding that
    wants nothing takes all messages by `all`, and none by `any`.
    """
    found = (
        name in headers and (value is None or _is_same(value, headers[name]))
        for name, value in (wanted or {}).items()
    )
    return any(found) if match == "any" else all(found)


def _is_same(value: object, other: object) -> bool:
    return type(value) is type(other) and value == other
