"""
What a server of Redis says becomes results that name the messages that may be lost.
"""

from dataclasses import replace
from datetime import timedelta

import pytest

from outbox.checks import redis, versions
from outbox.checks.result import Check, Status
from outbox.clock_difference import ClockDifference
from outbox.transports.redis_facts import RedisFacts, ServerGroup

OK, WARNING, ERROR, NOT_CHECKED = Status
NONE = timedelta(0)
SAFE = RedisFacts(
    role="master",
    appends=True,
    syncs="always",
    pauses_sync=False,
    last_append_failed=False,
    last_save_failed=False,
    eviction="noeviction",
    memory_used=10,
    memory_limit=100,
    replicas=0,
    replicas_to_write=0,
    clock=ClockDifference(NONE, NONE),
    refused_commands=(),
)
PAIR = replace(SAFE, group=ServerGroup.SENTINEL, replicas=1, replicas_to_write=1)
UNKNOWN = RedisFacts(group=ServerGroup.CLUSTER)


def found(results) -> list[tuple[Status, str]]:
    return [(result.status, result.text) for result in results]


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        (replace(SAFE, appends=False), "all messages since its last snapshot"),
        (replace(SAFE, syncs="everysec"), "confirmed messages of the last two seconds"),
        (replace(SAFE, syncs="no"), "confirmed messages of half a minute"),
        (replace(SAFE, pauses_sync=True), "messages confirmed since that began"),
        (replace(SAFE, eviction="allkeys-lru"), "Redis deletes queues with all their messages"),
        (replace(SAFE, replicas=1), "goes on to confirm messages, which a failover loses"),
        (replace(PAIR, replicas_to_write=0), "goes on to confirm messages, which a failover"),
        (replace(PAIR, replicas=0), "if the server is lost, so are its messages"),
    ],
)
def test_a_setting_that_may_lose_messages_is_a_warning_that_names_them(facts, named):
    (result,) = redis.of_durability(facts, awaited=0)

    assert (result.check, result.status) == (Check.BROKER_DURABILITY, WARNING)
    assert named in result.text


@pytest.mark.parametrize("facts", [SAFE, PAIR])
def test_a_server_that_loses_no_message_is_said_to_lose_none(facts):
    assert found(redis.of_durability(facts, awaited=0)) == [
        (OK, "Redis has a message on disk before it is confirmed")
    ]


def test_a_relay_that_waits_for_all_replicas_loses_none_in_a_failover():
    facts = replace(PAIR, replicas=2, replicas_to_write=0)

    (some,) = redis.of_durability(facts, awaited=1)
    (all_of_them,) = redis.of_durability(facts, awaited=2)

    assert some.status is WARNING
    assert some.text.startswith("MQ_REDIS_REPLICAS is 1, and 2 replicas are connected")
    assert all_of_them.status is OK


def test_no_setting_that_the_user_may_not_read_is_taken_for_safe():
    results = [*redis.of_durability(UNKNOWN, awaited=0), *redis.of_alarms(UNKNOWN)]

    assert {result.status for result in results[:3]} == {NOT_CHECKED}
    assert OK not in {result.status for result in results}
    assert found(redis.of_durability(replace(SAFE, syncs=None), awaited=0)) == [
        (NOT_CHECKED, "appendfsync, because the user may not use CONFIG GET: see to it yourself")
    ]


@pytest.mark.parametrize(
    ("facts", "status", "named"),
    [
        (SAFE, OK, "the broker has memory left"),
        (replace(SAFE, memory_used=80), WARNING, "80% of maxmemory is used"),
        (replace(SAFE, memory_used=100), ERROR, "takes no messages: 100% of maxmemory"),
        (replace(SAFE, memory_limit=0), WARNING, "maxmemory is not set"),
        (replace(SAFE, last_append_failed=True), ERROR, "append-only file has failed"),
        (replace(SAFE, last_save_failed=True), WARNING, "stop-writes-on-bgsave-error"),
    ],
)
def test_a_server_without_room_is_an_alarm(facts, status, named):
    (result,) = redis.of_alarms(facts)

    assert (result.check, result.status) == (Check.BROKER_ALARMS, status)
    assert named in result.text


def test_a_replica_and_missing_rights_are_errors():
    facts = replace(SAFE, role="slave", refused_commands=["XADD", "EVAL"], refused_keys=True)

    errors = [text for status, text in found(redis.of_server(facts)) if status is ERROR]

    assert [text.partition(":")[0] for text in errors] == [
        "MQ_BROKER_URL",
        "the broker's user may not use XADD, EVAL",
        "the broker's user may not use the keys",
    ]


def test_rights_that_could_not_be_tried_are_said_to_be_unknown():
    results = redis.of_server(replace(SAFE, refused_commands=None))

    assert {each.check: each.status for each in results}[Check.PERMISSIONS] is NOT_CHECKED


def test_a_clock_that_is_off_is_a_warning_and_an_unknown_one_is_said_to_be():
    far = timedelta(seconds=90)
    off = redis.of_server(replace(SAFE, clock=ClockDifference(far, far)))
    unknown = redis.of_server(replace(SAFE, clock=None))

    assert [each.status for each in off] == [OK, WARNING]
    assert [each.status for each in unknown] == [OK, NOT_CHECKED]


@pytest.mark.parametrize(
    ("product", "version", "status", "newer"),
    [
        ("Redis", (6, 2, 14), ERROR, False),
        ("Redis", (7, 0, 15), OK, False),
        ("Redis", (8, 0, 2), OK, False),
        ("Redis", (9, 0, 0), OK, True),
        ("Valkey", (7, 2, 4), OK, False),
        ("Valkey", (9, 0, 0), OK, True),
    ],
)
def test_a_version_is_too_old_supported_or_newer_than_the_tested_ones(
    product, version, status, newer
):
    (result,) = versions.of_redis(product, version)

    assert result.status is status
    assert ("newer than" in result.text) is newer
