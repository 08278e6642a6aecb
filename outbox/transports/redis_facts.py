"""
What a server of Redis says about how it stores messages, as values: `outbox.checks.redis` judges.

A fact is None if the server does not know it, or does not tell it to this user.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from outbox.clock_difference import ClockDifference


class ServerGroup(StrEnum):
    """To which servers MQ_BROKER_URL leads; if one is lost, another may take its place."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisFacts:
    """
    One server.

    Args:
        role: `master` or `slave`, in the words of the server.
        appends: Whether writes go to an append-only file (`appendonly`).
        syncs: When the file reaches the disk (`appendfsync`): always, everysec or no.
        pauses_sync: Whether nothing is synchronised while the file is rewritten or a snapshot is
            saved (`no-appendfsync-on-rewrite`).
        last_append_failed: Whether the last write to that file has failed; *last_save_failed*
            likewise for a snapshot.
        eviction: What happens when memory is full (`maxmemory-policy`).
        memory_used: In bytes, as *memory_limit* is, which is 0 for none.
        replicas: Those that are connected.
        replicas_to_write: How many the server needs for a write (`min-replicas-to-write`).
        clock: How far its clock is from that of this host.
        refused_commands: Commands of the transport that the user may not use; None if it may not
            try them in a transaction.
        refused_keys: Whether the user may not use the keys of the transport.

    """

    group: ServerGroup = ServerGroup.SINGLE
    role: str | None = None
    appends: bool | None = None
    syncs: str | None = None
    pauses_sync: bool | None = None
    last_append_failed: bool | None = None
    last_save_failed: bool | None = None
    eviction: str | None = None
    memory_used: int | None = None
    memory_limit: int | None = None
    replicas: int | None = None
    replicas_to_write: int | None = None
    clock: ClockDifference | None = None
    refused_commands: Sequence[str] | None = None
    refused_keys: bool = False
