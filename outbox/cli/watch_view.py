"""
Copies of messages on a terminal: a line for each, and its body below if it was asked for.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from outbox.cli.tables import short
from outbox.dead_letters.redaction import printable

_IN_THE_LINE = ("type", "routing_key", "message_id")
_PRIVATE = ("idempotency_key", "headers", "not_decrypted")


def show(copies: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each of *copies*."""
    for copy in copies:
        for line in lines(copy):
            print(line)  # noqa: T201 - rich would fold it
    sys.stdout.flush()


def lines(copy: Mapping[str, Any]) -> Iterator[str]:
    """Return the lines of one copy, with escaped control characters."""
    words = [copy["observed_at"], *(copy[name] or "-" for name in _IN_THE_LINE)]
    words += [f"{copy['size_bytes']} bytes"]
    words += [
        f"{label} {copy[name]}"
        for label, name in (
            ("correlation", "correlation_id"),
            ("priority", "priority"),
            ("lane", "lane"),
            ("encoding", "content_encoding"),
        )
        if copy[name] is not None
    ]
    if copy["failed_attempts"]:
        words.append(f"failed {copy['failed_attempts']}")
    words.append(f"to {', '.join(copy['queues'])}" if copy["queues"] else "unroutable")
    yield "  ".join(short(str(word)) for word in words)
    if "idempotency_key" in copy:
        for name in _PRIVATE:
            if copy.get(name):
                yield f"    {name} {printable(str(copy[name]))}"
        body = copy.get("body") or copy.get("body_base64") or ""
        yield f"    body {printable(body)}"
