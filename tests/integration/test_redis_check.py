"""
What `relay check` and `consumer check` say about a Redis.
"""

import json

import pytest
from yarl import URL

from tests.support.commands import CommandLine
from tests.support.servers.ports import free_port

TARGET = "tests.support.effects:consumer"
SECRET = "hunter2-of-the-test"


@pytest.fixture
def run(tmp_path, sqlite_url, redis_url) -> CommandLine:
    return CommandLine(tmp_path, MQ_DATABASE_URL=sqlite_url, MQ_BROKER_URL=redis_url)


def results(printed: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in json.loads(printed):
        found.setdefault(each["check"], []).append(f"{each['status']}: {each['text']}")
    return found


async def test_a_safe_redis_is_said_to_lose_nothing(run):
    assert (await run.run("consumer", "topology", TARGET)).code == 0

    for command in (("relay", "check", "--json"), ("consumer", "check", TARGET, "--json")):
        ended = await run.run(*command)

        found = results(ended.out)
        assert ended.code == 0, ended
        assert found["broker_version"][0].startswith(("ok: Redis ", "ok: Valkey "))
        assert found["broker_durability"] == [
            "ok: Redis has a message on disk before it is confirmed"
        ]
        assert found["permissions"][0].startswith("ok: ")
        assert found["broker_clock"][0].startswith("ok: ")
        assert found["topology"][0].startswith("ok: ")
        assert not any(line.startswith("error") for lines in found.values() for line in lines)


async def test_a_redis_that_may_lose_messages_is_a_warning_and_no_error(run, redis_server):
    assert (await run.run("consumer", "topology", TARGET)).code == 0
    async with redis_server.configured(appendfsync="everysec", maxmemory_policy="allkeys-lru"):
        ended = await run.run("relay", "check")

    assert ended.code == 0
    assert "confirmed messages of the last two seconds" in ended.err
    assert "Redis deletes queues with all their messages" in ended.err


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        (lambda url: url.with_password(SECRET), 2, "refuses user or password"),
        (lambda url: url.with_port(free_port()), 3, "connection refused"),
    ],
    ids=["password", "port"],
)
async def test_a_redis_that_cannot_be_used_ends_with_a_reason(
    run, redis_url, change, code, reason
):
    ended = await run.run("relay", "check", MQ_BROKER_URL=str(change(URL(redis_url))))

    assert ended.code == code
    assert reason in ended.out + ended.err
    assert SECRET not in ended.out + ended.err
