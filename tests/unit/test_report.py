"""
The report of a soak run: its figures and its files.
"""

import json
import random

import pytest

from tests.reliability.checker import Finding, Guarantees
from tests.reliability.fault_schedule import KINDS, next_faults
from tests.reliability.history import (
    COMMITTED,
    UNKNOWN,
    Applied,
    DeadLettered,
    FaultBegan,
    FaultEnded,
    Produced,
    Published,
)
from tests.reliability.report import markdown, percentile, report, write

PROMISE = Guarantees(consumers=frozenset({"etl"}))
HISTORY = [
    *(Produced(1, id_, None, 1, COMMITTED) for id_ in "acd"),
    Produced(3, "b", None, 1, COMMITTED),
    Produced(1, "e", None, 1, UNKNOWN),
    FaultBegan(1, "relay killed"),
    FaultEnded(2, "relay killed"),
    *(Published(3, id_) for id_ in "aabcd"),
    *(Applied(3, "etl", id_) for id_ in "abb"),
    DeadLettered(5, "etl", "c", "rejected"),
]


def test_the_report_counts_every_record():
    summary = report(HISTORY, PROMISE, [Finding("lost", "etl: 1: d")], {"seed": "7"})

    assert (summary.events, summary.unknown, summary.effects, summary.given_up) == (4, 1, 3, 1)
    assert (summary.lost, summary.applied_twice, summary.wire_duplicates, summary.sent) == (
        1,
        1,
        1,
        5,
    )
    assert summary.faults == {"relay killed": 1}
    assert summary.recovery_p50_seconds == summary.recovery_p99_seconds == 1
    assert summary.findings == ["lost: etl: 1: d"]


def test_the_report_is_written_as_json_and_as_markdown(tmp_path):
    summary = report(HISTORY, PROMISE, [Finding("lost", "etl: 1: d")], {"seed": "7"})
    write(summary, tmp_path)

    assert json.loads((tmp_path / "report.json").read_text())["wire_duplicates"] == 1
    page = (tmp_path / "report.md").read_text()
    assert page == markdown(summary)
    for line in ("| lost | 1 |", "| relay killed | 1 |", "| seed | 7 |", "- lost: etl: 1: d"):
        assert line in page.splitlines()


def test_a_run_without_faults_has_no_recovery():
    summary = report(HISTORY[:4], PROMISE, [], {})

    assert summary.recovery_p50_seconds is None
    assert "| recovery, median | – |" in markdown(summary)


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1, 100), (0.001, 1), (0, 1)])
def test_a_percentile_is_the_value_that_a_share_does_not_exceed(share, value):
    assert percentile(range(1, 101), share) == value


def test_the_same_seed_draws_the_same_faults_and_no_two_servers_at_a_time():
    one, other = random.Random(5), random.Random(5)
    drawn = [next_faults(one) for _ in range(2_000)]

    assert drawn == [next_faults(other) for _ in range(2_000)]
    assert {fault.inject for faults in drawn for fault in faults} == {
        kind.inject for kind in KINDS
    }
    of_server = {kind.inject for kind in KINDS if kind.of_server}
    assert all(sum(fault.inject in of_server for fault in faults) <= 1 for faults in drawn)
