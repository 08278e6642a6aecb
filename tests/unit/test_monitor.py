"""
What `relay monitor` concludes from a reading, and how it looks.
"""

import re
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from consumer.queues import ConsumerQueues
from outbox.database.processes import RegisteredProcess
from outbox.runtime.distribution import Distribution
from outbox.transports.base import QueueDepth
from outbox.transports.broker_figures import (
    BrokerFigures,
    ConnectionFigures,
    NodeFigures,
    QueueFigures,
)
from relay.event_group import EventGroup, EventState
from relay.monitor import view
from relay.monitor.alerts import Alert, Severity, alerts
from relay.monitor.command import document, exit_status
from relay.monitor.lag import stages
from relay.monitor.queue_family import families, split, usual_names
from relay.monitor.reading import DatabaseReading, Problem, Reading, RecordedQueues
from relay.monitor.snapshot import Snapshot, snapshot
from relay.monitor.thresholds import Thresholds, thresholds
from relay.settings import RelaySettings
from relay.storage.base import Backlog
from relay.storage.overview import FailingCount, SourceCount
from tests.support.pages import REPOSITORY

SECOND, MINUTE, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)
LIMITS = thresholds(RelaySettings(_env_file=None))
PREFIX = "health_data_processing"
WORK = f"{PREFIX}.etl"
QUEUES = [WORK, f"{WORK}.retry.30s", f"{WORK}.dead"]


def a_process(name: str = "relay", **fields: Any) -> RegisteredProcess:
    role = "relay" if name == "relay" else "consumer"
    figures = {"seconds": 10, "recent": {"success": 20, "retry": 5}}
    if role == "consumer":
        figures["queues"] = QUEUES
    values = {
        "role": role,
        "name": name,
        "host": "a",
        "pid": 1,
        "version": "1.0",
        "uptime": MINUTE,
        "unseen": SECOND,
        "waiting_for": None,
        "figures": figures,
    }
    return RegisteredProcess(**(values | fields))


def a_queue(name: str, messages: int = 0, consumers: int = 0) -> QueueFigures:
    return QueueFigures(name=name, messages=messages, unsettled=0, consumers=consumers)


NODE = NodeFigures(
    name="rabbit@a",
    memory_used=100,
    memory_limit=1_000,
    disk_free=10 * 2**30,
    disk_limit=50 * 2**20,
)


def a_broker(*queues: QueueFigures, **fields: Any) -> BrokerFigures:
    own = [a_queue(WORK, consumers=1), a_queue(QUEUES[1]), a_queue(QUEUES[2], consumers=1)]
    there = {each.name: each for each in [*own, *queues]}
    values: dict[str, Any] = {
        "version": "RabbitMQ 4.0.5",
        "nodes": [NODE],
        "connections": [ConnectionFigures(name="relay a:1", state="running", channels=1)],
        "channels": 3,
    }
    return BrokerFigures(queues=list(there.values()), **(values | fields))


def a_reading(broker: Any = None, at: float = 0.0, **fields: Any) -> Reading:
    values: dict[str, Any] = {
        "backlog": Backlog(0, timedelta(0)),
        "processes": [a_process(), a_process("etl")],
        "dead_letters": [],
        "failing": [],
        "targets": {"relay": "health_data_exchange", "etl": WORK},
    }
    database = DatabaseReading(**(values | fields))
    return Reading(at=at, database=database, broker=broker or a_broker())


def seen(reading: Reading, before: Reading | None = None) -> Snapshot:
    return snapshot(reading, prefix=PREFIX, unseen=LIMITS.unseen, before=before)


def raised(reading: Reading, limits: Thresholds = LIMITS) -> list[Alert]:
    return alerts(seen(reading), limits)


def names(reading: Reading, limits: Thresholds = LIMITS) -> list[str]:
    return [each.name for each in raised(reading, limits)]


def a_group(state: EventState, kind: str = "payment.made") -> EventGroup:
    return EventGroup(state, kind, None, 7, exact=True, attempts=1, oldest_age=SECOND)


def test_a_running_system_raises_no_alert():
    assert raised(a_reading()) == []


@pytest.mark.parametrize(
    ("name", "reading"),
    [
        ("OutboxRelayAbsent", a_reading(processes=[a_process("etl")])),
        (
            "OutboxServerUnavailable",
            a_reading(processes=[a_process(waiting_for="broker"), a_process("etl")]),
        ),
        (
            "OutboxProcessDown",
            a_reading(processes=[a_process(), a_process("etl"), a_process(unseen=MINUTE)]),
        ),
        ("OutboxBacklog", a_reading(backlog=Backlog(10_001, timedelta(0)))),
        ("OutboxEventsDelayed", a_reading(backlog=Backlog(1, 2 * MINUTE, oldest_age=DAY))),
        ("OutboxEventStuck", a_reading(backlog=Backlog(1, SECOND, oldest_age=DAY))),
        ("OutboxSnapshotOld", a_reading(backlog=Backlog(1, SECOND, 0, DAY, 5))),
        ("OutboxDeadTuples", a_reading(backlog=Backlog(1, SECOND, 1_000_001, SECOND, 5))),
        *(
            (name, a_reading(backlog=Backlog(7, SECOND, events=[a_group(state)])))
            for name, state in (
                ("OutboxEventsUnroutable", EventState.UNROUTABLE),
                ("OutboxEventsRefused", EventState.REFUSED),
                ("OutboxRowsUnsettled", EventState.UNSETTLED),
            )
        ),
        (
            "OutboxDeadLetters",
            a_reading(dead_letters=[SourceCount("etl", "no_handler", 1, MINUTE)]),
        ),
        ("OutboxQueueWithoutConsumer", a_reading(a_broker(a_queue(WORK)))),
        ("OutboxQueueLong", a_reading(a_broker(a_queue(WORK, 10_001, 1)))),
        ("OutboxRetryQueueLong", a_reading(a_broker(a_queue(QUEUES[1], 10_001)))),
        ("OutboxRetryQueueFormer", a_reading(a_broker(a_queue(f"{WORK}.retry.7s", 1)))),
        ("OutboxDeadQueueNotEmptied", a_reading(a_broker(a_queue(QUEUES[2], 1)))),
        (
            "OutboxQueueOrphaned",
            a_reading(a_broker(a_queue(f"{PREFIX}.former.retry.30s", 3))),
        ),
        ("OutboxBrokerDown", a_reading(Problem("cannot connect to a:5672: refused"))),
        ("OutboxBrokerDown", a_reading(a_broker(nodes=[replace(NODE, running=False)]))),
        (
            "OutboxBrokerPartitioned",
            a_reading(a_broker(nodes=[replace(NODE, partitions=["rabbit@b"])])),
        ),
        ("OutboxBrokerAlarm", a_reading(a_broker(nodes=[replace(NODE, memory_alarm=True)]))),
        ("OutboxBrokerAlarm", a_reading(a_broker(nodes=[replace(NODE, disk_alarm=True)]))),
        (
            "OutboxBrokerAlarm",
            a_reading(
                a_broker(
                    nodes=None,
                    connections=[ConnectionFigures(name="r", state="blocked", channels=1)],
                )
            ),
        ),
        ("OutboxBrokerMemoryHigh", a_reading(a_broker(nodes=[replace(NODE, memory_used=801)]))),
        ("OutboxBrokerDiskLow", a_reading(a_broker(nodes=[replace(NODE, disk_free=2**20)]))),
    ],
)
def test_a_figure_that_needs_a_person_raises_its_alert(name, reading):
    assert names(reading) == [name]


def test_a_consumer_without_a_process_raises_an_alert_with_its_queue():
    [alert] = raised(a_reading(a_broker(a_queue(WORK)), processes=[a_process()]))

    assert (alert.name, alert.subject) == ("OutboxConsumerAbsent", "etl")
    assert WORK in alert.text


def test_a_consumer_whose_queue_and_process_are_gone_has_retired():
    broker = BrokerFigures(version="", queues=[], nodes=None)

    assert raised(a_reading(broker, processes=[a_process()])) == []


def test_a_running_consumer_without_its_queue_raises_an_alert():
    broker = BrokerFigures(version="", queues=[], nodes=None)

    assert names(a_reading(broker)) == ["OutboxTopologyProblem"]


def test_a_consumer_of_a_version_that_does_not_report_is_known_by_its_subscriptions():
    assert raised(a_reading(processes=[a_process()])) == []


def test_without_wanted_consumers_none_is_missing():
    reading = a_reading(a_broker(a_queue(WORK)), processes=[a_process()])

    assert raised(reading, replace(LIMITS, consumers=0)) == []


def test_a_killed_process_raises_no_alert_once_another_has_taken_its_place():
    killed, later = a_process(unseen=5 * MINUTE), a_process(uptime=MINUTE)

    found = a_reading(processes=[later, killed, a_process("etl")])

    assert raised(found) == []
    assert [each.replaced for each in seen(found).processes] == [False, True, False]


def test_a_process_that_ran_beside_the_killed_one_does_not_take_its_place():
    killed, beside = a_process(unseen=5 * MINUTE), a_process(uptime=10 * MINUTE)

    assert names(a_reading(processes=[beside, killed, a_process("etl")])) == ["OutboxProcessDown"]


OF_MONITOR_ALONE = {
    "OutboxDatabaseDown",
    "OutboxBrokerPartitioned",
    "OutboxQueueOrphaned",
    "OutboxRetryQueueFormer",
}
"""Alerts about what Prometheus does not see."""


def test_alerts_have_the_names_of_those_in_prometheus():
    source = (REPOSITORY / "relay" / "monitor" / "alerts.py").read_text()
    rules = (REPOSITORY / "deploy" / "prometheus" / "rules.yml").read_text()
    page = (REPOSITORY / "docs" / "how-to" / "monitor.md").read_text()

    ours = set(re.findall(r'"(Outbox\w+)"', source))
    theirs = set(re.findall(r"alert: (Outbox\w+)", rules))

    assert ours - theirs == OF_MONITOR_ALONE
    section = page.partition("### Alerts of the monitor")[2].partition("\n##")[0]
    assert ours == set(re.findall(r"`(Outbox\w+)`", section))


def test_critical_alerts_come_first():
    found = raised(
        a_reading(a_broker(nodes=[replace(NODE, disk_free=0)]), backlog=Backlog(9**6, DAY))
    )

    assert [each.severity for each in found] == [
        Severity.CRITICAL,
        Severity.WARNING,
        Severity.WARNING,
    ]


def test_a_database_that_does_not_answer_hides_nothing_of_the_broker():
    reading = Reading(at=0, database=Problem("refused"), broker=a_broker())

    assert names(reading) == ["OutboxDatabaseDown"]
    assert [each.queue for each in seen(reading).queues or ()] == QUEUES


@pytest.mark.parametrize(
    ("reading", "code"),
    [
        (a_reading(), 0),
        (a_reading(processes=[]), 1),
        (a_reading(Problem("refused")), 3),
        (a_reading(Problem("wrong password", refused=True)), 2),
        (Reading(at=0, database=Problem("refused"), broker=a_broker()), 3),
    ],
)
def test_the_exit_status_says_whether_there_is_an_alert_or_no_answer(reading, code):
    assert exit_status(reading, raised(reading)) == code


def test_rates_add_up_over_processes_and_recorded_events_follow_from_the_backlog():
    before = a_reading(at=10.0, backlog=Backlog(100, timedelta(0)))
    after = a_reading(
        at=20.0,
        backlog=Backlog(150, timedelta(0)),
        processes=[a_process(), a_process(pid=2), a_process("etl")],
    )

    rates = seen(after, before).rates

    assert rates is not None
    assert (rates.published, rates.handled, rates.failed) == (4.0, 2.0, 0.5)
    assert rates.recorded == 9.0
    assert seen(after).rates.recorded is None  # type: ignore[union-attr]


def test_the_figures_of_a_process_that_is_gone_do_not_count():
    rates = seen(a_reading(processes=[a_process(unseen=MINUTE)])).rates

    assert rates is not None
    assert rates.published == 0


def a_lag(seconds: float, count: int = 10) -> Distribution:
    return Distribution((0.1, 1.0, 10.0), (0, count, 0, 0), seconds * count)


def test_the_stage_in_the_broker_is_derived_and_the_others_are_measured():
    found = stages(
        [
            {"commit_to_claim": a_lag(0.2), "claim_to_confirm": a_lag(0.3)},
            {"commit_to_confirm": a_lag(0.5)},
            {"record_to_delivery": a_lag(0.9), "delivery_to_effect": a_lag(0.4)},
        ]
    )

    means = {each.stage: each.mean and round(each.mean.total_seconds(), 3) for each in found}
    assert means == {
        "commit to claim": 0.2,
        "claim to confirm": 0.3,
        "confirm to deliver": 0.4,
        "deliver to effect": 0.4,
        "commit to effect": 1.3,
    }
    assert [each.stage for each in found if each.derived] == [
        "confirm to deliver",
        "commit to effect",
    ]
    assert all((each.median is None) == each.derived for each in found)


def test_without_events_no_stage_has_a_time():
    assert all(each.mean is None for each in stages([{"commit_to_claim": a_lag(0, 0)}]))


def test_the_names_of_queues_are_those_of_consumers():
    queues = ConsumerQueues(name="q.x", bindings=[], delays=[30 * SECOND])
    kinds = [split(name) for name in queues.names]

    assert [work for work, _ in kinds] == [queues.name] * 3
    assert [kind.value for _, kind in kinds] == ["work", "retry", "dead"]


def test_the_usual_names_are_those_of_the_default_delays():
    delays = [30 * SECOND, 300 * SECOND, 900 * SECOND]

    assert usual_names("q") == ConsumerQueues(name="q", bindings=[], delays=delays).names


def test_queues_of_consumers_are_found_by_prefix_and_by_record():
    found = [
        a_queue(name)
        for name in (
            "other",
            f"{PREFIX}_2.etl",
            "own",
            "own.dead",
            "own.retry.5s",
            WORK,
            f"{WORK}.retry.5s",
            f"{WORK}.retry.30s",
        )
    ]

    listed = families(found, prefix=PREFIX, recorded={"own", "gone"}, in_use={WORK: QUEUES})

    assert [(each.queue, each.exists, each.former) for each in listed] == [
        ("gone", False, None),
        (WORK, True, False),
        (f"{WORK}.retry.30s", True, False),
        (f"{WORK}.retry.5s", True, True),
        ("own", True, None),
        ("own.retry.5s", True, None),
        ("own.dead", True, None),
    ]


def test_without_a_management_api_the_recorded_queues_are_asked_for():
    depths = {WORK: QueueDepth(3, 1), f"{WORK}.retry.300s": QueueDepth(0, 0), QUEUES[2]: None}

    found = seen(a_reading(RecordedQueues(depths)))

    assert [(each.queue, each.messages, each.exists) for each in found.queues or ()] == [
        (WORK, 3, True),
        (f"{WORK}.retry.300s", 0, True),
    ]


FULL = a_reading(
    a_broker(
        a_queue(f"{WORK}.retry.7s", 4),
        a_queue("another", 50_000),
        nodes=[replace(NODE, memory_alarm=True)],
        not_shown=["policies: the user lacks a tag"],
    ),
    backlog=Backlog(7, SECOND, events=[a_group(EventState.UNROUTABLE)]),
    processes=[a_process(), a_process("etl", waiting_for="broker"), a_process(unseen=MINUTE)],
    dead_letters=[SourceCount("etl", "retries_exhausted", 2, MINUTE)],
    failing=[FailingCount("etl", "test.happened", "ValueError", 3, MINUTE)],
)


def drawn(width: int, reading: Reading = FULL, **options: Any) -> str:
    console = Console(width=width, record=True, file=None, **options)
    found = seen(reading)
    with console.capture() as captured:
        console.print(
            view.screen(found, alerts(found, LIMITS), heading="relay monitor", width=width)
        )
    return captured.get()


@pytest.mark.parametrize("width", [60, 100, 160])
def test_the_screen_fits_every_width_and_names_what_matters(width):
    text = drawn(width)

    assert max(map(len, text.splitlines())) <= width
    for word in ("OutboxBroker", "unroutable", "commit to claim", "relay", "etl", "rabbit@a"):
        assert word in text


def test_a_wide_screen_has_every_column_and_a_narrow_one_the_most_important():
    assert "version" in drawn(160)
    assert "version" not in drawn(100)
    assert "severity" not in drawn(60)


def test_alerts_are_the_first_lines_of_the_screen():
    lines = drawn(100).splitlines()

    assert lines[0].startswith("relay monitor")
    assert lines[1].strip() == "alerts"


def test_a_terminal_without_colours_gets_none(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")

    assert "\x1b[33m" not in drawn(100, force_terminal=True)


def test_names_from_other_programs_cannot_write_on_the_terminal():
    name = f"{PREFIX}.\x1b[2Jevil\n[red]"

    text = drawn(160, a_reading(a_broker(a_queue(name, 1, 1))))

    assert "\x1b" not in text
    assert "[red]" in text


def test_a_broker_cannot_write_on_the_terminal_with_its_answers():
    answers = {"version": "4.0\x1b[2J", "not_shown": ["policies: \x1b]0;title\x07"]}
    found = seen(a_reading(a_broker(**answers)))
    console = Console(width=100, file=StringIO())

    view.print_all(console, found, alerts(found, LIMITS))

    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "not shown: policies" in text
    assert not {"\x1b", "\x07"} & set(text)


def test_of_ten_thousand_queues_the_first_are_drawn_and_the_title_says_so():
    """All of them took a minute, in which the screen reads no key; the document has them."""
    many = [a_queue(f"{PREFIX}.q{number:05}", 1, 1) for number in range(10_000)]
    found = seen(a_reading(a_broker(*many)))
    console = Console(width=100, file=StringIO())

    view.print_all(console, found, alerts(found, LIMITS))
    text = drawn(100, a_reading(a_broker(*many)))

    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "200 of 10,003; --once --json has all" in printed
    assert "50 of 10,003; --once --json has all" in text
    assert f"{PREFIX}.q00199" not in text
    assert len(document(found, [])["queues"]) == 10_003


def test_printed_lines_are_whole_however_narrow_the_terminal_is():
    found = seen(FULL)
    console = Console(width=20, soft_wrap=True, file=StringIO())

    view.print_all(console, found, alerts(found, LIMITS))

    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "delete the queue when empty" in text
    assert "not shown: policies: the user lacks a tag" in text


def test_the_document_has_alerts_first_and_no_figures_of_processes():
    found = seen(FULL)

    whole = document(found, alerts(found, LIMITS))

    assert next(iter(whole)) == "alerts"
    assert "since_start" not in repr(whole)
