"""
The facts of a real server, for a user with all rights and for one with few.
"""

import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta

import pytest
import structlog
from yarl import URL

from outbox.checks import durability
from outbox.server_settings import ServerSettings
from outbox.settings import SharedSettings
from outbox.transports.connect import transport
from outbox.transports.redis.addresses import HASH_TAG, open_client
from outbox.transports.redis.inspection import attempts, inspect
from tests.support.pages import REPOSITORY
from tests.support.servers import RedisServer

USER = "limited"
CONNECTS = ("+auth", "+client|setname", "+select")
"""Rights without which no connection is made."""


async def facts_of(url: str):
    urls = ServerSettings(broker_url=url).brokers
    client = open_client(urls, name="check")
    async with aclosing(client):
        return await inspect(client, urls)


def rights_of_page() -> list[str]:
    """Return the rights that docs/how-to/redis.md names."""
    page = (REPOSITORY / "docs" / "how-to" / "redis.md").read_text()
    [rights] = re.findall(r"^ACL SETUSER relay on >PASSWORD ([^`]+)```", page, re.MULTILINE)
    return list(rights.split())


@asynccontextmanager
async def user_with(server: RedisServer, url: str, *rights: str) -> AsyncIterator[str]:
    await server.call("ACL", "SETUSER", USER, "reset", "on", ">secret", *rights)
    try:
        yield str(URL(url).with_user(USER).with_password("secret"))
    finally:
        await server.call("ACL", "DELUSER", USER)


async def test_a_safe_server_says_so(redis_server, redis_url):
    found = await facts_of(redis_url)

    assert found.product in {"Redis", "Valkey"}
    assert found.version[0].isdigit()
    stored = found.redis
    assert (stored.role, stored.appends, stored.syncs) == ("master", True, "always")
    assert stored.pauses_sync is False
    assert (stored.last_append_failed, stored.last_save_failed) == (False, False)
    assert (stored.eviction, stored.memory_limit) == ("noeviction", 0)
    assert stored.memory_used > 0
    assert (stored.replicas, stored.replicas_to_write) == (0, 0)
    assert abs(stored.clock.certain) < timedelta(seconds=1)
    assert (stored.refused_commands, stored.refused_keys) == ([], False)
    assert stored.group == "single"


async def test_changed_settings_of_the_server_are_seen(redis_server, redis_url):
    async with redis_server.configured(
        appendfsync="everysec",
        no_appendfsync_on_rewrite="yes",
        maxmemory_policy="allkeys-lru",
        min_replicas_to_write="2",
    ):
        stored = (await facts_of(redis_url)).redis

    assert (stored.syncs, stored.eviction) == ("everysec", "allkeys-lru")
    assert stored.pauses_sync
    assert stored.replicas_to_write == 2


async def test_attempts_leave_no_trace(redis_server, redis_url):
    await facts_of(redis_url)

    assert await redis_server.call("DBSIZE", database=int(redis_url.rpartition("/")[2])) == 0


async def test_a_user_without_rights_gets_facts_that_are_none(redis_server, redis_url):
    async with user_with(redis_server, redis_url, *CONNECTS, f"~{HASH_TAG.decode()}*") as url:
        stored = (await facts_of(url)).redis

    assert (stored.appends, stored.syncs, stored.memory_used, stored.clock) == (None,) * 4
    assert stored.refused_commands is None


async def test_each_refused_command_is_named_once(redis_server, redis_url):
    async with user_with(redis_server, redis_url, *CONNECTS, "~*", "+multi", "+discard") as url:
        stored = (await facts_of(url)).redis

    named = {words[0] for words in attempts("key")}
    assert {name.partition(" ")[0] for name in stored.refused_commands} == named
    assert len(stored.refused_commands) == len(attempts("key"))


@pytest.mark.parametrize("missing", ["XADD", "HSET", "XGROUP"])
async def test_a_single_missing_command_is_named(redis_server, redis_url, missing):
    keys = f"~{HASH_TAG.decode()}*"
    async with user_with(redis_server, redis_url, keys, "+@all", f"-{missing.lower()}") as url:
        stored = (await facts_of(url)).redis

    assert {name.partition(" ")[0] for name in stored.refused_commands} == {missing}
    assert not stored.refused_keys


async def test_a_user_for_other_keys_is_told_so(redis_server, redis_url):
    async with user_with(redis_server, redis_url, "~other:*", "+@all") as url:
        stored = (await facts_of(url)).redis

    assert stored.refused_keys
    assert list(stored.refused_commands) == []


async def test_the_rights_that_the_page_names_suffice(redis_server, redis_url):
    async with user_with(redis_server, redis_url, *rights_of_page()) as url:
        stored = (await facts_of(url)).redis

    assert (list(stored.refused_commands), stored.refused_keys) == ([], False)
    assert None not in (stored.syncs, stored.memory_used, stored.clock)


async def test_a_start_logs_which_messages_may_be_lost(redis_server, redis_url):
    settings = SharedSettings(broker_url=redis_url)
    broker = transport(settings, name="test")
    with structlog.testing.capture_logs() as safe:
        await durability.warn(broker, settings)
    async with redis_server.configured(appendfsync="everysec"):
        with structlog.testing.capture_logs() as lines:
            await durability.warn(broker, settings)

    assert safe == []
    [line] = lines
    assert (line["event"], line["log_level"]) == ("messages_may_be_lost", "warning")
    assert "confirmed messages of the last two seconds" in line["problem"]
