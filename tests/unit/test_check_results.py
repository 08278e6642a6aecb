"""
How facts about servers become results of a check.
"""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from outbox.checks import broker, clocks, database, permissions, unroutable, versions
from outbox.checks.report import Report
from outbox.checks.result import Check, CheckResult, Status
from outbox.checks.unroutable import Waiting
from outbox.clock_difference import ClockDifference, between
from outbox.database.server_facts import ServerFacts
from outbox.errors import BrokerUnavailable, ConfigurationError, DatabaseUnavailable
from outbox.transports.inspection import (
    Answer,
    BindingOf,
    BrokerFacts,
    Consuming,
    Permission,
    Publishing,
)
from outbox.transports.management import BrokerHealth
from outbox.transports.rabbitmq import inspection
from outbox.transports.routes import RouteState
from relay.inspection import of_vacuum
from relay.storage.base import Backlog

NOW = datetime(2026, 5, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
OK, WARNING, ERROR, NOT_CHECKED = Status


def statuses(results) -> list[Status]:
    return [result.status for result in results]


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ((13, 22), [ERROR]),
        ((14, 3), [OK, WARNING]),
        ((14, 4), [OK]),
        ((18, 1), [OK]),
        ((19, 0), [OK]),
    ],
)
def test_a_version_of_postgres_is_too_old_has_a_fault_or_is_supported(version, expected):
    assert statuses(versions.of_postgres(version)) == expected


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("3.9.29", [ERROR]),
        ("3.10.4", [WARNING, WARNING]),
        ("3.10.8", [WARNING]),
        ("3.12.2", [WARNING, WARNING]),
        ("3.13.5", [OK, WARNING]),
        ("3.13.7", [OK]),
        ("4.0.6", [OK, WARNING]),
        ("4.1.0-rc.2", [OK]),
        ("4.3.2", [OK, WARNING]),
        ("4.3.3", [OK]),
        ("4.4.1", [OK]),
    ],
)
def test_a_version_of_rabbitmq_is_too_old_has_a_fault_or_is_supported(version, expected):
    assert statuses(versions.of_rabbitmq(versions.parsed(version))) == expected


def test_each_known_fault_names_a_source_and_the_version_that_has_no_fault():
    for fault in (*versions.POSTGRES_FAULTS, *versions.RABBITMQ_FAULTS):
        assert fault.affects(fault.first)
        assert not fault.affects(fault.fixed)
        assert fault.source.startswith("https://")


def test_a_version_that_is_newer_than_all_tested_ones_is_said_to_be():
    (found,) = versions.of_rabbitmq((5, 0))
    assert found.text == "RabbitMQ 5.0, which is newer than 4.3, the newest that was tested"
    (python,) = versions.of_python((3, 11, 2))
    assert python.text == "Python 3.11.2"


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, OK), (0.9, OK), (-1.5, WARNING), (59, WARNING), (-61, ERROR)]
)
def test_a_clock_that_is_off_warns_above_a_second_and_is_an_error_above_a_minute(
    seconds, expected
):
    difference = ClockDifference(*[timedelta(seconds=seconds)] * 2)

    found = clocks.of_database(difference, affected="retries come too early")

    assert found.status is expected
    assert ("retries come too early" in found.text) == (expected is not OK)
    assert clocks.of_broker(difference).status is (OK if expected is OK else WARNING)


def test_a_slow_answer_or_a_coarse_clock_proves_no_difference():
    slow = between(NOW, before=NOW - 5 * SECOND, after=NOW + 5 * SECOND)
    coarse = between(NOW, before=NOW + 1.5 * SECOND, after=NOW + 1.6 * SECOND, step=2 * SECOND)
    ahead = between(NOW + 9 * SECOND, before=NOW, after=NOW + SECOND)
    behind = between(NOW - 9 * SECOND, before=NOW, after=NOW + SECOND)

    certain = [each.certain for each in (slow, coarse, ahead, behind)]
    assert certain == [timedelta(0), timedelta(0), 8 * SECOND, -9 * SECOND]


@pytest.mark.parametrize(
    ("is_pooled", "shares", "is_expected", "status", "word"),
    [
        (False, False, False, OK, "no connection pooler"),
        (True, True, False, ERROR, "add ?pgbouncer=1"),
        (True, True, True, OK, "transaction mode"),
        (True, False, False, OK, "not seen to share"),
        (False, False, True, WARNING, "no connection pooler answers"),
    ],
)
def test_a_pooler_that_shares_its_sessions_needs_the_parameter_of_the_url(
    is_pooled, shares, is_expected, status, word
):
    facts = ServerFacts(
        version=(15, 8),
        clock=ClockDifference(timedelta(0), timedelta(0)),
        is_encrypted=True,
        certificate_ends=None,
        is_pooled=is_pooled,
        shares_sessions=shares,
    )

    found = database.of_pooler(facts, is_expected=is_expected)

    assert found.status is status
    assert word in found.text


def test_sqlite_warns_of_the_versions_that_may_corrupt_a_file():
    assert database.of_sqlite((3, 51, 2)).status is WARNING
    assert database.of_sqlite((3, 51, 3)) == CheckResult.ok(
        Check.DATABASE_VERSION, "SQLite 3.51.3"
    )


MAIN = Publishing("main", ("a.b", "c.d"))


@pytest.mark.parametrize(
    ("answers", "expected", "word"),
    [
        (
            [Answer(MAIN, Permission.GRANTED, key) for key in MAIN.routing_keys],
            [OK],
            "may publish",
        ),
        ([Answer(Publishing(""), Permission.REFUSED)], [ERROR], "write on amq.default"),
        ([Answer(Consuming("q"), Permission.REFUSED)], [ERROR], "grant read on q"),
        (
            [Answer(BindingOf("main", "q"), Permission.REFUSED)],
            [ERROR],
            "grant write on q and read on main",
        ),
        (
            [
                Answer(MAIN, Permission.GRANTED, "a.b"),
                Answer(MAIN, Permission.REFUSED_BY_KEY, "c.d"),
            ],
            [ERROR],
            "with the routing key c.d",
        ),
        ([Answer(MAIN, Permission.UNKNOWN)], [NOT_CHECKED], "a topic permission decides"),
        ([Answer(MAIN, Permission.BLOCKED)], [NOT_CHECKED], "takes no messages"),
        ([Answer(MAIN, Permission.MISSING)], [], ""),
    ],
)
def test_an_answer_of_the_broker_says_what_to_grant(answers, expected, word):
    found = list(permissions.of_answers(answers))

    assert statuses(found) == expected
    assert all(word in each.text for each in found)


@pytest.mark.parametrize(
    ("health", "is_blocked", "expected", "word"),
    [
        (BrokerHealth(["memory on rabbit@a"]), None, ERROR, "alarm of memory on rabbit@a"),
        (BrokerHealth(), None, OK, "no alarm"),
        (None, True, ERROR, "memory or disk"),
        (None, False, OK, "no alarm"),
        (None, None, NOT_CHECKED, "has answered"),
    ],
)
def test_alarms_are_known_from_the_api_or_from_a_blocked_connection(
    health, is_blocked, expected, word
):
    found = broker.of_alarms(health, is_blocked=is_blocked)

    assert found.status is expected
    assert word in found.text


async def test_no_attempt_is_made_at_a_broker_that_does_not_call_itself_rabbitmq():
    properties = {"product": b"Other", "version": b"2.1"}
    connection = SimpleNamespace(server_properties=properties, url=SimpleNamespace(scheme="amqps"))

    facts = await inspection.inspect(
        SimpleNamespace(transport=SimpleNamespace(connection=connection)), [Consuming("q")]
    )

    assert facts == BrokerFacts(product="Other", version="2.1", is_encrypted=True, answers=[])
    assert statuses(broker.of_version(facts)) == [NOT_CHECKED, NOT_CHECKED]


def test_each_key_without_a_queue_is_named_with_the_number_of_its_events():
    waiting = [
        Waiting("main", "a.b", 3),
        Waiting("main", "c.d", 1),
        Waiting("main", "e.f", 2),
        Waiting("gone", "a.b", 1),
    ]
    states = {
        "main": {
            "a.b": RouteState.BOUND,
            "c.d": RouteState.NO_QUEUE,
            "e.f": RouteState.UNKNOWN,
        },
        "gone": {"a.b": RouteState.NO_EXCHANGE},
    }

    found = list(unroutable.of_routes(waiting, states))

    assert statuses(found) == [ERROR, ERROR, NOT_CHECKED, OK]
    for result, beginning in zip(
        found,
        (
            "1 waiting event with the routing key c.d: no queue is bound to exchange main",
            "1 waiting event with the routing key a.b: exchange gone does not exist: name it",
            "the routes of 2 waiting events, because headers, a policy or a plugin",
            "3 waiting events would reach a queue",
        ),
        strict=True,
    ):
        assert result.text.startswith(beginning)
    assert statuses(unroutable.of_routes([], {})) == [OK]


@pytest.mark.parametrize(
    ("dead", "age", "expected"),
    [
        (1_000_000, timedelta(hours=1), [OK]),
        (1_000_001, timedelta(hours=2), [WARNING, WARNING]),
        (None, None, []),
    ],
)
def test_old_snapshots_and_many_dead_tuples_are_warned_of(dead, age, expected):
    backlog = Backlog(0, timedelta(0), dead, age, None, oldest_age=timedelta(0))

    assert statuses(of_vacuum(backlog)) == expected


def test_a_report_keeps_every_problem_once_and_ends_like_the_first():
    def fails(error: Exception) -> None:
        raise error

    report = Report()
    assert report.step(Check.SETTINGS, lambda: 1) == 1
    assert report.failure is None
    report.step(Check.SCHEMA, lambda: fails(DatabaseUnavailable("no answer\nno room")))
    report.step(Check.TOPOLOGY, lambda: fails(ConfigurationError("no room\nno queue")))
    report.unavailable(CheckResult.error(Check.BROKER_ALARMS, "memory"))
    report.warn(Check.SCHEMA, ["odd", "odd"])

    assert [each.text for each in report.results] == [
        "no answer",
        "no room",
        "no queue",
        "memory",
        "odd",
    ]
    assert isinstance(report.failure, DatabaseUnavailable)
    assert report.has_error(Check.TOPOLOGY)
    assert not report.has_error(Check.SETTINGS)


async def test_a_report_takes_the_error_of_an_awaited_step():
    async def fails() -> None:
        raise BrokerUnavailable("no password", refused=True)

    report = Report()

    assert await report.async_step(Check.BROKER_VERSION, fails()) is None
    assert isinstance(report.failure, BrokerUnavailable)
    assert report.failure.refused
