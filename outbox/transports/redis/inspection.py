"""
What the server says about itself, and whether the user may use the commands of the transport.

Each command is queued in a transaction that is discarded: the server checks the rights of the user
when it queues a command, and would execute it only at the end. If the user may not begin a
transaction, no command is sent.

INFO, CONFIG GET and TIME are rights of their own: for a user that lacks one, its facts are None.
"""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError
from yarl import URL

from outbox.clock_difference import ClockDifference, between
from outbox.errors import BrokerUnavailable
from outbox.transports.inspection import BrokerFacts
from outbox.transports.redis.addresses import HASH_TAG, RedisAddress
from outbox.transports.redis.connect_errors import redis_errors
from outbox.transports.redis_facts import RedisFacts, ServerGroup

_OK = "ok"
_OF_COMMAND = "command"
"""In the text of NOPERM for a command; the text for a key has none."""

_WITH_SUBCOMMANDS = {"SCRIPT", "XGROUP", "XINFO"}
_CLOCK_STEP = timedelta(microseconds=1)


def attempts(key: str) -> list[tuple[str, ...]]:
    """Return a command on *key* for each one that the transport uses, in scripts or by itself."""
    return [
        ("EVAL", "return 1", "1", key),
        ("EVALSHA", "0" * 40, "1", key),
        ("SCRIPT", "LOAD", "return 1"),
        ("TIME",),
        ("WAIT", "0", "1"),
        ("SETRANGE", key, "0", ""),
        ("GET", key),
        ("SET", key, ""),
        ("HGET", key, "field"),
        ("HGETALL", key),
        ("HEXISTS", key, "field"),
        ("HSET", key, "field", ""),
        ("HDEL", key, "field"),
        ("SADD", key, "member"),
        ("SMEMBERS", key),
        ("RPUSH", key, "member"),
        ("LINDEX", key, "0"),
        ("LRANGE", key, "0", "0"),
        ("LREM", key, "0", "member"),
        ("ZADD", key, "0", "member"),
        ("ZSCORE", key, "member"),
        ("ZRANGEBYSCORE", key, "0", "0"),
        ("ZREM", key, "member"),
        ("XADD", key, "*", "field", ""),
        ("XREAD", "COUNT", "1", "STREAMS", key, "0"),
        ("XREADGROUP", "GROUP", "none", "none", "COUNT", "1", "STREAMS", key, ">"),
        ("XGROUP", "CREATE", key, "none", "0", "MKSTREAM"),
        ("XGROUP", "DELCONSUMER", key, "none", "none"),
        ("XINFO", "GROUPS", key),
        ("XACK", key, "none", "0-1"),
        ("XCLAIM", key, "none", "none", "0", "0-1"),
        ("XPENDING", key, "none"),
        ("XRANGE", key, "-", "+"),
        ("XDEL", key, "0-1"),
        ("XLEN", key),
    ]


async def inspect(client: Redis, urls: Sequence[URL]) -> BrokerFacts:
    """
    Return what the server of *client* says, to which *urls* have led.

    Raises BrokerUnavailable.
    """
    encrypted = urls[0].scheme == "rediss"
    with redis_errors("MQ_BROKER_URL", encrypted=encrypted):
        info: dict[str, Any] = await _allowed(client.info()) or {}
        return BrokerFacts(
            product="Valkey" if info.get("server_name") == "valkey" else "Redis",
            version=str(info.get("valkey_version", info.get("redis_version", ""))),
            is_encrypted=encrypted,
            redis=await _facts(client, info, RedisAddress.of(urls).group),
        )


async def _facts(client: Redis, info: dict[str, Any], group: ServerGroup) -> RedisFacts:
    syncs = await _setting(client, "appendfsync")
    pauses = await _setting(client, "no-appendfsync-on-rewrite")
    needed = await _setting(client, "min-replicas-to-write")
    commands, keys = await _refusals(client)
    return RedisFacts(
        group=group,
        role=info.get("role"),
        appends=_flag(info, "aof_enabled", 1),
        syncs=syncs,
        pauses_sync=None if pauses is None else pauses == "yes",
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


async def _refusals(client: Redis) -> tuple[Sequence[str] | None, bool]:
    """The commands that the user may not use, or None; and whether it may not use the keys."""
    commands = attempts(f"{HASH_TAG.decode()}:check:{secrets.token_hex(16)}")
    # A client of its own for one connection: a transaction belongs to it.
    async with client.client() as single:
        connection = single.connection
        if connection is None:
            raise BrokerUnavailable("MQ_BROKER_URL: the connection was lost")
        try:
            await connection.send_command("MULTI")
            await connection.read_response()
        except NoPermissionError:
            return None, False
        replies = [await _reply(connection, words) for words in commands]
        await connection.send_command("DISCARD")
        await connection.read_response()
    refused = [(words, reply) for words, reply in zip(commands, replies, strict=True) if reply]
    # The text is read for its meaning and dropped.
    of_commands = [_name(words) for words, reply in refused if _OF_COMMAND in reply]
    return list(dict.fromkeys(of_commands)), len(of_commands) < len(refused)


async def _reply(connection: Any, words: Sequence[str]) -> str:
    """The text with which the server refuses the user the command *words*; else empty."""
    await connection.send_command(*words)
    try:
        await connection.read_response()
    except NoPermissionError as error:
        return str(error)
    except ResponseError:
        return ""  # without memory, disk or replicas: that is asked after the rights
    return ""


def _name(words: Sequence[str]) -> str:
    return " ".join(words[:2]) if words[0] in _WITH_SUBCOMMANDS else words[0]


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
