"""
What the server says about itself, and whether the user may use the commands of the transport.

The commands are real, on a key of chance that does not exist, and have no effect: `NOMKSTREAM`
creates no stream and `XX` no member, and a group cannot be made without its stream. The server
checks the rights of the user before it looks for the key.

INFO, CONFIG GET and TIME are rights of their own: for a user that lacks one, its facts are None.
"""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from outbox.clock_difference import ClockDifference, between
from outbox.transports.inspection import BrokerFacts
from outbox.transports.redis.addresses import HASH_TAG
from outbox.transports.redis_facts import RedisFacts, ServerGroup

_OK = "ok"
_OF_COMMAND = "command"
"""In the text of NOPERM for a command; the text for a key has none."""

_CLOCK_STEP = timedelta(microseconds=1)
_SCRIPT = "return redis.call('EXISTS', KEYS[1])"


def attempts(key: str) -> list[tuple[str, ...]]:
    """Return a command without an effect for each one that the transport uses, on *key*."""
    return [
        ("EVAL", _SCRIPT, "1", key),
        ("EVALSHA", "0" * 40, "1", key),
        ("SCRIPT LOAD", _SCRIPT),
        ("XADD", key, "NOMKSTREAM", "*", "field", "value"),
        ("XREADGROUP", "GROUP", "none", "none", "COUNT", "1", "STREAMS", key, ">"),
        ("XGROUP CREATE", key, "none", "$"),
        ("XACK", key, "none", "0-1"),
        ("XDEL", key, "0-1"),
        ("XCLAIM", key, "none", "none", "0", "0-1"),
        ("XAUTOCLAIM", key, "none", "none", "0", "0-0"),
        ("XPENDING", key, "none"),
        ("XRANGE", key, "-", "+", "COUNT", "1"),
        ("XLEN", key),
        ("ZADD", key, "XX", "0", "member"),
        ("ZRANGE", key, "0", "0"),
        ("ZREM", key, "member"),
        ("ZCARD", key),
        ("HGETALL", key),
        ("HDEL", key, "field"),
        ("GET", key),
        ("SET", key, "", "XX"),
        ("DEL", key),
    ]


async def inspect(client: Redis, *, group: ServerGroup, encrypted: bool) -> BrokerFacts:
    """
    Return what the server of *client* says.

    *group* is known from MQ_BROKER_URL, and whether the connection is *encrypted*. Raises the
    errors of the client.
    """
    info: dict[str, Any] = await _allowed(client.info()) or {}
    return BrokerFacts(
        product="Valkey" if info.get("server_name") == "valkey" else "Redis",
        version=str(info.get("valkey_version", info.get("redis_version", ""))),
        is_encrypted=encrypted,
        redis=await _facts(client, info, group),
    )


async def _facts(client: Redis, info: dict[str, Any], group: ServerGroup) -> RedisFacts:
    syncs = await _setting(client, "appendfsync")
    needed = await _setting(client, "min-replicas-to-write")
    commands, keys = await _refusals(client)
    return RedisFacts(
        group=group,
        role=info.get("role"),
        appends=_flag(info, "aof_enabled", 1),
        syncs=syncs,
        last_append_failed=_differs(info, "aof_last_write_status"),
        last_save_failed=_differs(info, "rdb_last_bgsave_status"),
        eviction=info.get("maxmemory_policy"),
        memory_used=info.get("used_memory"),
        memory_limit=info.get("maxmemory"),
        replicas=info.get("connected_slaves"),
        replicas_to_write=None if needed is None else int(needed),
        clock=await _clock(client),
        refused_commands=commands,
        refused_keys=keys,
    )


async def _refusals(client: Redis) -> tuple[Sequence[str], bool]:
    """The commands that the user may not use, and whether it may not use the keys."""
    commands = attempts(f"{HASH_TAG.decode()}:check:{secrets.token_hex(16)}")
    pipeline = client.pipeline(transaction=False)
    for words in commands:
        pipeline.execute_command(*words)
    replies = await pipeline.execute(raise_on_error=False)
    refused = [
        (words[0], reply)
        for words, reply in zip(commands, replies, strict=True)
        if isinstance(reply, NoPermissionError)
    ]
    # The text is read for its meaning and dropped.
    of_commands = [name for name, reply in refused if _OF_COMMAND in str(reply)]
    return of_commands, len(of_commands) < len(refused)


async def _clock(client: Redis) -> ClockDifference | None:
    before = datetime.now(UTC)
    found = await _allowed(client.time())
    after = datetime.now(UTC)
    if found is None:
        return None
    seconds, microseconds = found
    server = datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=microseconds)
    return between(server, before=before, after=after, step=_CLOCK_STEP)


async def _setting(client: Redis, name: str) -> str | None:
    found = await _allowed(client.config_get(name)) or {}
    return found.get(name)


async def _allowed(call: Any) -> Any:
    """The reply to *call*; None if the user may not make it, or the server does not know it."""
    try:
        return await call
    except NoPermissionError:
        return None
    except ResponseError as error:
        # Managed servers have removed CONFIG.
        if "unknown command" in str(error):
            return None
        raise


def _flag(info: dict[str, Any], name: str, value: object) -> bool | None:
    return info[name] == value if name in info else None


def _differs(info: dict[str, Any], name: str) -> bool | None:
    return info[name] != _OK if name in info else None
