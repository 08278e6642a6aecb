"""
A request to watch: which messages, for how long, and whether with bodies.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.audit.log import Audit
from outbox.dead_letters.encrypted_letters import OpenKeys
from outbox.errors import ConfigurationError
from outbox.transports.base import Transport
from outbox.transports.topology import Binding

SOURCE = "broker"
"""The source of these acts in the audit log: a message belongs to no consumer yet."""

_LONGEST = 255


@dataclass(frozen=True, slots=True)
class WatchedMessages:
    """The messages whose routing key matches one of *patterns*, on *exchange*."""

    exchange: str
    patterns: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Return them for the audit log."""
        return {"exchange": self.exchange, "patterns": list(self.patterns)}

    def bindings(self, name: str) -> list[Binding]:
        """Return them as bindings of the observer *name*."""
        return [Binding(self.exchange, name, pattern) for pattern in self.patterns]


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchRequest:
    """
    What a person asked for.

    Args:
        audit: Who sees bodies, and why; None without bodies.
        decrypt: Whether encrypted bodies are decrypted with the keys of the operator.
        limit: Ends after so many copies; None for any number.
        within: Ends after this time; None for any time.

    """

    messages: WatchedMessages
    audit: Audit[WatchedMessages] | None = None
    decrypt: bool = False
    limit: int | None = None
    within: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSource:
    """
    What a process provides to the command.

    Args:
        name: Begins the names of observers; the broker's user may declare queues that do.
        main_exchange: The exchange that is watched unless another one is named.
        transport: The broker.
        database: Opens the database with the audit log.
        keys: Opens the keys of the operator.
        two_person: Whether a second person has to approve that bodies are seen.

    """

    name: str
    main_exchange: str
    transport: Callable[[], Transport]
    database: Callable[[], AbstractAsyncContextManager[AsyncEngine]]
    keys: OpenKeys
    two_person: bool


def watched_messages(exchange: str, patterns: Sequence[str]) -> WatchedMessages:
    """
    Return the choice; without *patterns* it is all messages of *exchange*.

    Raises ConfigurationError, which names the argument.
    """
    for argument, texts in (("--exchange", [exchange]), ("PATTERN", patterns)):
        for text in texts:
            if not _fits(text):
                raise ConfigurationError(
                    f"{argument}: must be valid Unicode of at most {_LONGEST} bytes"
                )
    return WatchedMessages(exchange, list(dict.fromkeys(patterns)) or ["#"])


def _fits(text: str) -> bool:
    try:
        return len(text.encode()) <= _LONGEST
    except UnicodeEncodeError:
        return False
