"""
How durably a server of Redis stores messages, and what the user may do there: pure.

Redis confirms a write when it is in memory. Whether it survives depends on settings of the server,
so each warning names the messages that may be lost.
"""

from collections.abc import Iterator

from outbox.checks import clocks
from outbox.checks.result import Check, CheckResult
from outbox.transports.redis_facts import RedisFacts, ServerGroup

WARNED_ABOVE = 0.8
"""The share of the memory limit from which on a full memory is near."""

SAFE_EVICTION = "noeviction"
REPLICA = "slave"

_LOST_WITHOUT = {
    "everysec": "a crash of the server may lose confirmed messages of the last two seconds",
    "no": "a crash of the machine may lose confirmed messages of half a minute",
}
"""By `appendfsync`. While the disk is slow, `everysec` lets writes wait for up to two seconds."""


def of_durability(facts: RedisFacts, *, awaited: int) -> Iterator[CheckResult]:
    """
    Judge what may be lost when the server, its machine or one server of several is lost.

    Relays confirm a message when *awaited* replicas have it (MQ_REDIS_REPLICAS).
    """
    check = Check.BROKER_DURABILITY
    found = [*_of_file(facts), *_of_eviction(facts), *_of_failover(facts, awaited)]
    yield from found
    if not found:
        yield CheckResult.ok(check, "Redis has a message on disk before it is confirmed")


def of_server(facts: RedisFacts) -> Iterator[CheckResult]:
    """Judge whether the server takes messages, except for problems that pass by themselves."""
    if facts.role == REPLICA:
        yield CheckResult.error(
            Check.BROKER_ALARMS,
            "MQ_BROKER_URL: the server is a replica, and takes no messages: name the primary, or"
            " the Sentinels with ?sentinel=NAME",
        )
    yield from _of_permissions(facts)
    if facts.clock is not None:
        yield clocks.of_broker(facts.clock)
    else:
        yield CheckResult.not_checked(
            Check.BROKER_CLOCK, "the clock of the broker", because="the user may not use TIME"
        )


def of_alarms(facts: RedisFacts) -> Iterator[CheckResult]:
    """Judge memory and disk; an error passes when an operator has freed some."""
    check = Check.BROKER_ALARMS
    problems = [*_of_memory(facts), *_of_disk(facts)]
    yield from problems
    if facts.memory_used is None and facts.last_append_failed is None:
        because = "the user may not use INFO"
        yield CheckResult.not_checked(check, "memory and disk of the broker", because=because)
    elif not problems:
        yield CheckResult.ok(check, "the broker has memory left, and its last write was stored")


def _of_file(facts: RedisFacts) -> Iterator[CheckResult]:
    check = Check.BROKER_DURABILITY
    if facts.appends is None:
        yield CheckResult.not_checked(
            check, "whether Redis keeps messages on disk", because="the user may not use INFO"
        )
    elif not facts.appends:
        yield CheckResult.warning(
            check,
            "appendonly is no: a restart of Redis loses all messages since its last snapshot: set"
            " appendonly to yes, and appendfsync to always",
        )
    elif facts.syncs is None:
        yield CheckResult.not_checked(
            check, "appendfsync", because="the user may not use CONFIG GET: see to it yourself"
        )
    elif facts.syncs in _LOST_WITHOUT:
        yield CheckResult.warning(
            check,
            f"appendfsync is {facts.syncs}: {_LOST_WITHOUT[facts.syncs]}: set it to always",
        )
    if facts.appends and facts.pauses_sync:
        yield CheckResult.warning(
            check,
            "no-appendfsync-on-rewrite is yes: a crash of the machine while Redis rewrites the"
            " append-only file or saves a snapshot may lose messages confirmed since that began:"
            " set it to no",
        )


def _of_eviction(facts: RedisFacts) -> Iterator[CheckResult]:
    check = Check.BROKER_DURABILITY
    if facts.eviction is None:
        yield CheckResult.not_checked(
            check, "maxmemory-policy", because="the user may not use INFO"
        )
    elif facts.eviction != SAFE_EVICTION:
        yield CheckResult.warning(
            check,
            f"maxmemory-policy is {facts.eviction}: when memory is full, Redis deletes queues with"
            f" all their messages: set it to {SAFE_EVICTION}",
        )


def _of_failover(facts: RedisFacts, awaited: int) -> Iterator[CheckResult]:
    check = Check.BROKER_DURABILITY
    replicas = facts.replicas or 0
    if facts.group is ServerGroup.SINGLE and not replicas:
        return
    if awaited:
        if awaited < replicas:
            yield CheckResult.warning(
                check,
                f"MQ_REDIS_REPLICAS is {awaited}, and {replicas} replicas are connected: a"
                " failover to one that lags behind loses confirmed messages: set it to the number"
                " of all",
            )
    elif facts.replicas_to_write is None:
        yield CheckResult.not_checked(
            check, "min-replicas-to-write", because="the user may not use CONFIG GET"
        )
    elif facts.replicas_to_write == 0:
        yield CheckResult.warning(
            check,
            "min-replicas-to-write and MQ_REDIS_REPLICAS are 0: a primary that was cut off goes on"
            " to confirm messages, which a failover loses: set both to the number of replicas",
        )
    if facts.group is not ServerGroup.SINGLE and not replicas:
        yield CheckResult.warning(
            check, "no replica is connected: if the server is lost, so are its messages"
        )


def _of_permissions(facts: RedisFacts) -> Iterator[CheckResult]:
    check = Check.PERMISSIONS
    if facts.refused_commands is None:
        because = "the user may not use MULTI, in which commands are tried without an effect"
        yield CheckResult.not_checked(check, "the rights of the broker's user", because=because)
        return
    if facts.refused_commands:
        listed = ", ".join(facts.refused_commands)
        yield CheckResult.error(
            check, f"the broker's user may not use {listed}: grant them with ACL SETUSER"
        )
    if facts.refused_keys:
        yield CheckResult.error(
            check, "the broker's user may not use the keys: grant ~{mq}* with ACL SETUSER"
        )
    if not facts.refused_commands and not facts.refused_keys:
        yield CheckResult.ok(check, "the broker's user may use all commands that are needed")


def _of_memory(facts: RedisFacts) -> Iterator[CheckResult]:
    check = Check.BROKER_ALARMS
    if facts.memory_used is None or facts.memory_limit is None:
        return
    if facts.memory_limit == 0:
        yield CheckResult.warning(
            check,
            "maxmemory is not set: a backlog that fills the memory ends the server, instead of"
            " letting relays wait: set it below the memory of the machine",
        )
        return
    share = facts.memory_used / facts.memory_limit
    text = f"{share:.0%} of maxmemory is used"
    if share >= 1:
        yield CheckResult.error(
            check, f"the broker takes no messages: {text}: raise it, or let consumers catch up"
        )
    elif share >= WARNED_ABOVE:
        yield CheckResult.warning(check, f"{text}: at 100% the broker takes no messages")


def _of_disk(facts: RedisFacts) -> Iterator[CheckResult]:
    check = Check.BROKER_ALARMS
    if facts.last_append_failed:
        yield CheckResult.error(
            check,
            "the broker takes no messages since its last write to the append-only file has failed:"
            " its log names the reason",
        )
    if facts.last_save_failed:
        yield CheckResult.warning(
            check,
            "the last snapshot has failed: as long as stop-writes-on-bgsave-error is yes, the"
            " broker takes no messages: its log names the reason",
        )
