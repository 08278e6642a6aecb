"""
Which histories the checker accepts, and which findings it reports for the others.
"""

import json

import pytest

from tests.reliability.checker import Guarantees, check
from tests.reliability.figures import figures
from tests.reliability.history import (
    COMMITTED,
    ROLLED_BACK,
    UNKNOWN,
    Applied,
    DeadLettered,
    Drained,
    FaultBegan,
    FaultEnded,
    HistoryWriter,
    Leaked,
    Leftover,
    Produced,
    Published,
    Record,
    Sampled,
    Waiting,
    read,
)

ETL = Guarantees(consumers=frozenset({"etl"}))


def a_life(id_: str = "a", key: str | None = None, sequence: int = 1) -> list[Record]:
    return [
        Produced(1, id_, key, sequence, COMMITTED),
        Published(2, id_),
        Applied(3, "etl", id_),
    ]


def rules(*records: Record, guarantees: Guarantees = ETL) -> list[str]:
    return [finding.rule for finding in check(records, guarantees)]


def test_the_checker_finds_nothing_in_a_correct_history():
    assert rules(*a_life("a"), *a_life("b", "k", 1), *a_life("c", "k", 2), Drained(4)) == []


def test_a_committed_event_that_is_nowhere_is_lost():
    assert rules(Produced(1, "a", None, 1, COMMITTED), Published(2, "a")) == ["lost"]


def test_an_event_that_one_of_two_consumers_has_not_got_is_lost():
    both = Guarantees(consumers=frozenset({"etl", "mail"}))

    assert rules(*a_life(), guarantees=both) == ["lost"]
    assert rules(*a_life(), Applied(4, "mail", "a"), guarantees=both) == []


@pytest.mark.parametrize(("outcome", "found"), [(COMMITTED, []), (ROLLED_BACK, ["ghost"])])
def test_the_last_record_of_an_event_with_an_unknown_outcome_counts(outcome, found):
    doubt, answer = Produced(1, "a", None, 1, UNKNOWN), Produced(4, "a", None, 1, outcome)

    assert rules(doubt, Applied(3, "etl", "a"), answer) == found


@pytest.mark.parametrize(
    "record",
    [Waiting(4, "outbox", "a"), Waiting(4, "etl", "a"), DeadLettered(4, "relay", "a", "size")],
)
def test_an_event_that_waits_or_is_dead_lettered_is_not_lost(record):
    guarantees = Guarantees(
        consumers=frozenset({"etl"}), drained=False, reasons=frozenset({"size"})
    )

    assert rules(Produced(1, "a", None, 1, COMMITTED), record, guarantees=guarantees) == []


def test_the_checker_finds_a_backlog_after_the_drain():
    assert rules(Produced(1, "a", None, 1, COMMITTED), Waiting(4, "etl", "a")) == ["backlog"]


def test_an_event_that_was_rolled_back_may_be_nowhere():
    rolled_back = Produced(1, "a", None, 1, ROLLED_BACK)

    assert rules(rolled_back) == []
    assert rules(rolled_back, Published(2, "a")) == ["ghost"]
    assert rules(rolled_back, Applied(2, "etl", "a")) == ["ghost"]


def test_an_event_with_an_unknown_outcome_may_exist_or_not():
    unknown = Produced(1, "a", None, 1, UNKNOWN)

    assert rules(unknown) == []
    assert rules(unknown, Published(2, "a"), Applied(3, "etl", "a")) == []


def test_an_effect_without_an_event_is_a_ghost():
    assert rules(Applied(1, "etl", "a")) == ["ghost"]


def test_the_checker_finds_an_effect_applied_twice_unless_a_replay_repeated_it():
    assert rules(*a_life(), Applied(4, "etl", "a")) == ["twice"]
    assert rules(*a_life(), Applied(4, "etl", "a", run="r")) == []
    assert rules(*a_life(), Applied(4, "etl", "a", "r"), Applied(5, "etl", "a", "r")) == ["twice"]


def test_the_order_of_a_key_counts_first_copies_only():
    first, second = a_life("a", "k", 1), a_life("b", "k", 2)

    assert rules(*first, *second, Published(9, "a")) == []
    assert rules(*second, *first) == ["order"]


def test_the_order_of_effects_counts_for_ordered_consumers():
    sent = [*a_life("a", "k", 1)[:2], *a_life("b", "k", 2)[:2]]
    effects = [Applied(5, "etl", "b"), Applied(6, "etl", "a")]
    ordered = Guarantees(consumers=frozenset({"etl"}), ordered=frozenset({"etl"}))

    assert rules(*sent, *effects) == []
    assert rules(*sent, *effects, guarantees=ordered) == ["order"]


def test_copies_on_the_wire_are_counted_against_their_bound():
    bounded = Guarantees(consumers=frozenset({"etl"}), duplicates=1)

    assert rules(*a_life(), Published(4, "a"), guarantees=bounded) == []
    assert rules(*a_life(), Published(4, "a"), Published(5, "a"), guarantees=bounded) == [
        "duplicates"
    ]


def test_a_dead_letter_needs_a_reason_that_the_run_allows():
    given_up = [Produced(1, "a", None, 1, COMMITTED), DeadLettered(4, "etl", "a", "rejected")]

    assert rules(*given_up) == ["reason"]
    guarantees = Guarantees(consumers=frozenset({"etl"}), reasons=frozenset({"rejected"}))
    assert rules(*given_up, guarantees=guarantees) == []


def test_the_checker_finds_leftovers():
    assert rules(Leftover(1, "idle in transaction", 2)) == ["leftover"]
    assert rules(Leaked(1, "log of relay")) == ["leak"]


def test_memory_that_only_grows_is_found_and_a_plateau_is_not():
    mebibyte = 1024 * 1024
    plateau = [Sampled(at, "relay", min(at, 3) * 100 * mebibyte, 20) for at in range(12)]
    growth = [Sampled(at, "relay", at * 100 * mebibyte, 20) for at in range(12)]
    leak = [Sampled(at, "relay", mebibyte, 20 * at) for at in range(12)]

    assert rules(*plateau) == []
    assert rules(*growth) == ["growth"]
    assert rules(*leak) == ["growth"]


def test_a_recovery_lasts_from_the_end_of_a_fault_to_the_first_effect_of_a_new_event():
    patient = Guarantees(consumers=frozenset({"etl"}), progress_seconds=5)
    slow = [
        *a_life(),
        FaultBegan(4, "kill"),
        FaultEnded(5, "kill"),
        Produced(6, "b", None, 1, COMMITTED),
    ]

    assert rules(*slow, Applied(9, "etl", "b"), guarantees=patient) == []
    assert rules(*slow, Applied(11, "etl", "b"), guarantees=patient) == ["recovery"]
    assert figures([*slow, Applied(9, "etl", "b")]).recoveries == [4]


def test_effects_of_a_backlog_end_no_recovery():
    backlog = [
        *a_life("old")[:2],
        FaultBegan(4, "kill"),
        FaultEnded(5, "kill"),
        Applied(6, "etl", "old"),
    ]
    story = [*backlog, Produced(7, "new", None, 1, COMMITTED), Applied(9, "etl", "new")]

    assert figures(story).recoveries == [4]
    assert figures([*backlog, Drained(9)]).recoveries == []


def test_a_fault_after_which_there_was_nothing_to_do_has_no_recovery():
    idle = [*a_life(), FaultBegan(4, "kill"), FaultEnded(5, "kill"), Drained(9)]

    assert figures(idle).recoveries == []


def test_the_figures_have_the_longest_pause_and_the_time_to_drain():
    story = [
        *a_life(),
        FaultBegan(4, "kill"),
        FaultEnded(5, "kill"),
        Applied(9, "etl", "b"),
        Drained(11),
    ]

    assert (figures(story).longest_pause, figures(story).drained_after) == (6, 6)
    assert figures([*story, Waiting(12, "etl", "c")]).drained_after is None
    assert (figures(a_life()).longest_pause, figures(a_life()).drained_after) == (None, None)


def test_the_figures_count_the_records_of_a_history():
    found = figures(
        [
            *a_life(),
            Published(4, "a"),
            Produced(4, "b", None, 1, UNKNOWN),
            DeadLettered(5, "etl", "b", "rejected"),
            FaultBegan(6, "kill"),
            FaultBegan(7, "kill"),
        ]
    )

    assert (found.events, found.unknown, found.applied, found.given_up) == (1, 1, 1, 1)
    assert (found.sent, found.duplicates, found.faults) == (2, 1, {"kill": 2})


def test_a_history_is_read_as_it_was_written_without_a_truncated_last_line(tmp_path):
    records = [*a_life("a", "k", 1), Drained(4), Sampled(5, "relay", 1, 2)]
    path = tmp_path / "history"
    with HistoryWriter(path) as history:
        history.write(*records)
    with path.open("a") as file:
        file.write(json.dumps({"what": "drained"}))

    assert read(path) == records
