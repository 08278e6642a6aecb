import io
import json
import random

import pytest
from rich.console import Console

from tests.benchmarks import (
    consumption,
    dedup,
    embedded,
    encryption,
    end_to_end,
    flatness,
    latency,
    outbox_rows,
    peer_programs,
    throughput,
    wal,
)
from tests.benchmarks.dedup import Purge
from tests.benchmarks.drain_curve import DrainCurve, Sample
from tests.benchmarks.flatness import Memory
from tests.benchmarks.plan import Plan
from tests.benchmarks.results import (
    Result,
    as_json,
    as_markdown,
    as_table,
    at_least,
    at_most,
    headline,
    of_rounds,
    percentile,
    ratio,
    ratios,
    significant,
)
from tests.benchmarks.throughput import Turn

FOUND = [
    Result("speed", 3.14159, "×", at_least(3)),
    Result("waste", 2.0, "%", at_most(1), "too much"),
    Result("missing", None, "×", at_least(1), "no trigger"),
    Result("relay: rate", 12_345.6, "rows/s"),
]
CONDITIONS = {"cores": "2", "commit": "abc"}


def curve(*samples: tuple[float, int]) -> DrainCurve:
    return DrainCurve([Sample(at, gone) for at, gone in samples])


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [
        (at_least(2), 2.0, True),
        (at_least(2), 1.99, False),
        (at_most(2), 2.0, True),
        (at_most(2), 2.01, False),
        (at_most(1), 0.03 / 0.03000000000000001 + 2e-16, True),
    ],
)
def test_a_goal_is_met_at_its_bound(goal, value, met):
    assert goal.met(value) is met


def test_a_result_without_a_goal_or_a_value_is_neither_met_nor_missed():
    assert [result.met for result in FOUND] == [True, False, None, None]
    assert [result.verdict for result in FOUND] == ["yes", "NO", "not applicable", ""]
    assert headline(FOUND) == "1 of 2 goals met"


def test_ratios_are_taken_round_by_round():
    """In the last round the machine was slow for both contenders, which changes no ratio."""
    assert ratios([20, 21, 2], [10, 10, 1]) == [2, 2.1, 2]


def test_a_figure_is_the_median_of_its_rounds_and_shows_their_spread():
    figure = of_rounds("speed", [3, 1, 8], "×", at_least(3))

    assert (figure.value, figure.met, figure.spread) == (3, True, "1.00–8.00")
    assert of_rounds("speed", [3], "×").spread == ""


def test_a_contender_that_did_nothing_is_no_error():
    assert ratio(1, 0) == float("inf")


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (99, 99), (100, 100), (0, 1)])
def test_a_percentile_is_one_of_the_values(percent, expected):
    values = list(range(1, 101))
    random.Random(1).shuffle(values)

    assert percentile(values, percent) == expected


@pytest.mark.parametrize(
    ("value", "shown"),
    [(12_345.6, "12,346"), (99.94, "99.9"), (3.14159, "3.14"), (0.0123, "0.012"), (-4.0, "-4.00")],
)
def test_figures_are_shown_with_three_significant_digits(value, shown):
    assert significant(value) == shown


def test_the_json_holds_every_figure_and_the_conditions():
    document = json.loads(as_json(FOUND, CONDITIONS))

    assert document["results"][0] == {
        "name": "speed",
        "value": 3.14159,
        "unit": "×",
        "goal": "≥ 3",
        "met": True,
        "note": "",
        "rounds": [],
    }
    assert [result["met"] for result in document["results"]] == [True, False, None, None]
    assert document["conditions"] == CONDITIONS


def test_an_infinite_ratio_is_still_json():
    document = json.loads(as_json([Result("speed", ratio(1, 0), "×")], {}))

    assert document["results"][0]["value"] is None


def test_the_markdown_is_one_table_with_the_conditions_under_it():
    lines = as_markdown(FOUND, CONDITIONS).splitlines()

    assert lines[2] == "| `speed` | 3.14 × | ≥ 3 | yes |  |  |"
    assert lines[3] == "| `waste` | 2.00 % | ≤ 1 | **NO** |  | too much |"
    assert lines[5] == "| relay: rate | 12,346 rows/s |  |  |  |  |"
    assert {line.count("|") for line in lines[:6]} == {7}
    assert lines[-2:] == ["- cores: 2", "- commit: abc"]


def test_the_terminal_names_the_goals_that_were_missed():
    console = Console(width=120, file=io.StringIO())
    with console.capture() as captured:
        console.print(as_table(FOUND))

    text = captured.get()
    assert "1 of 2 goals met" in text
    assert "NO" in text
    assert "not applicable" in text


def test_a_rate_begins_with_the_commit():
    waiting = curve((0, 0), (1, 0), (2, 500), (3, 1_000))

    assert waiting.rate() == pytest.approx(1_000 / 3)


def test_a_rate_between_samples_is_on_the_line():
    even = curve((0, 0), (1, 1_000), (3, 5_000))

    assert even.passed(500) == pytest.approx(0.5)
    assert even.rate(500, 3_000) == pytest.approx(2_500 / 1.5)


def test_a_drain_curve_without_its_warm_up_leaves_out_the_start():
    going = curve((0, 0), (5, 10), (6, 100), (7, 1_100)).under_way(5_000)

    assert going.began == 6
    assert going.rate(100) == pytest.approx(1_000)


def test_a_drain_curve_without_progress_has_no_rate():
    stuck = curve((0, 0), (5, 0))

    assert stuck.rate() == 0
    assert stuck.under_way(60_000).rate(0, 60_000) == 0


def test_a_drain_curve_that_was_cut_short_is_rated_for_the_rows_that_it_drained():
    assert curve((0, 0), (10, 2_000)).rate(0, 60_000) == pytest.approx(200)


def test_tenths_are_the_first_and_the_last_of_the_same_size():
    slowing = curve((0, 0), (1, 20), (2, 120), (5.5, 900), (7.5, 1_000))

    first, last = flatness.tenths(slowing, 1_000)

    assert first == pytest.approx(100)
    assert last == pytest.approx(50)


def test_memory_is_counted_from_the_settled_state_on():
    memory = Memory()
    for gone, megabytes in ((0, 50), (60, 80), (100, 85)):
        memory.saw(gone, megabytes * 1_000_000)

    assert memory.result(100, after=50).value == pytest.approx(5)
    assert memory.result(100, after=50).note == "to 85 MB"
    assert "cut" in memory.result(200, after=50).note
    assert memory.result(100, after=500).value is None


def relays(**others: list[Turn]) -> dict[str, list[Turn]]:
    """Two rounds; in the second one the machine was half as fast for all."""
    return {
        "relay": [Turn(12_000, 0.02), Turn(6_000, 0.02)],
        "two relays": [Turn(18_000, 0.03), Turn(9_000, 0.03)],
        "gather": [Turn(3_000, 0.4), Turn(1_500, 0.4)],
        "own publisher": [Turn(15_000, 0.05), Turn(7_500, 0.05)],
        **others,
    }


def test_relays_are_compared_within_each_round():
    peers = {"txoutbox": [Turn(2_000, 0.3), Turn(1_000, 0.3)], "C": [Turn(16_000, 0.01)] * 2}

    found = {result.name: result for result in throughput.figures(relays(**peers))}

    assert found["relay_vs_best_peer"].value == pytest.approx(6)
    assert found["relay_vs_gather"].value == pytest.approx(4)
    assert found["relay_vs_c"].value == pytest.approx((0.75 + 0.375) / 2)
    assert found["relay_cpu"].value == pytest.approx(0.02)
    assert found["relay_two_vs_one"].value == pytest.approx(1.5)
    assert found["relay: rate"].value == 9_000


def test_the_best_peer_is_that_of_the_round():
    peers = {
        "txoutbox": [Turn(2_000, 0.3), Turn(500, 0.3)],
        "faststream-outbox": [Turn(1_000, 0.3), Turn(1_000, 0.3)],
    }

    found = {result.name: result for result in throughput.figures(relays(**peers))}

    assert found["relay_vs_best_peer"].rounds == [6, 6]


def test_a_figure_without_its_contender_says_why():
    missing = {"C": "there is no C compiler", "omni-box": "it needs Python 3.12"}
    peers = {"txoutbox": [Turn(2_000, 0.3), Turn(1_000, 0.3)]}

    found = {result.name: result for result in throughput.figures(relays(**peers), missing)}
    [larger, *_] = throughput.figures_of_size("10kb", {"10kb relay": [Turn(1, 1)]}, missing)

    assert (found["relay_vs_c"].value, found["relay_vs_c"].note) == (None, missing["C"])
    assert found["relay_vs_best_peer"].note == "without omni-box: it needs Python 3.12"
    assert (larger.verdict, larger.note) == ("not applicable", missing["C"])


def test_without_a_compiler_the_program_in_c_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(peer_programs.Unavailable, match="no C compiler"):
        peer_programs.build_full_job(tmp_path)


def test_a_peer_that_cannot_be_installed_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(peer_programs, "CACHE", tmp_path)

    with pytest.raises(peer_programs.Unavailable, match="false failed"):
        peer_programs.environment("nothing", "1", "false", ["-r", "requirements.txt"])


def test_delays_leave_out_the_warm_up():
    commits = {"a": 1.0, "b": 2.0, "c": 3.0}
    confirms = {"c": 3.004, "b": 2.002, "a": 9.0}

    delays = latency.evaluate(commits, confirms, skip=1)

    assert delays.p50 == pytest.approx(2)
    assert delays.p99 == pytest.approx(4)


def test_a_missing_confirm_is_an_error():
    with pytest.raises(KeyError):
        latency.evaluate({"a": 1.0}, {}, skip=0)


def test_percentiles_are_compared_with_those_of_the_relay_by_hand():
    delays = {
        "floor": [latency.Delays(1, 2)],
        "relay by hand": [latency.Delays(2, 20)],
        "relay": [latency.Delays(3, 10)],
    }

    p50, p99, *_ = latency.figures(delays)

    assert (p50.value, p99.value) == (1.5, 0.5)


def test_urgent_events_are_compared_with_those_on_an_idle_machine():
    alone, beside = latency.Delays(2, 10), latency.Delays(4, 40)

    figure, *_ = end_to_end.figures_under_load([alone], [beside])

    assert (figure.value, figure.met) == (4, False)


def test_consumers_are_compared_with_those_by_hand_within_each_round():
    turns = {
        "handwritten": [Turn(500, 1.0), Turn(250, 1.0)],
        "default": [Turn(1_500, 0.7), Turn(750, 0.7)],
        "handwritten_batch": [Turn(3_500, 0.3), Turn(1_750, 0.3)],
        "batch": [Turn(7_000, 0.2), Turn(3_500, 0.2)],
        "on_batch": [Turn(14_000, 0.05), Turn(7_000, 0.05)],
    }

    found = {result.name: result for result in consumption.figures(turns)}

    assert found["consumer_default_vs_handwritten"].value == pytest.approx(3)
    assert found["consumer_batch_vs_handwritten_batch"].value == pytest.approx(2)
    assert found["consumer_on_batch_vs_handwritten_batch"].value == pytest.approx(4)
    assert found["consumer default: rate"].value == 1_125
    assert found["consumer default: CPU per 1,000"].value == pytest.approx(0.7)


def test_the_embedded_default_is_compared_with_the_earlier_build_in_the_same_run():
    rates = {"before, 1": [100.0], "before, 2": [50.0], "today, 1": [1_500.0], "today, 2": [600.0]}

    one, two, *_ = embedded.figures(rates)

    assert [(figure.value, figure.met) for figure in (one, two)] == [(15, True), (12, False)]


def test_without_the_earlier_build_the_embedded_default_has_no_figure():
    one, *_ = embedded.figures({"today, 1": [1.0], "today, 2": [1.0]}, "no such commit")

    assert (one.value, one.note) == (None, "no such commit")


def test_bytes_of_wal_are_compared_part_by_part():
    found = {
        f"{part}, {name}": [size]
        for name, sizes in (("product", (110, 100, 300)), ("by hand", (100, 100, 200)))
        for part, size in zip(wal.PARTS, sizes, strict=True)
    }

    assert [figure.value for figure in wal.figures(found)[:3]] == pytest.approx([1.1, 1, 1.5])


def test_neither_the_rate_nor_the_cpu_of_a_consumer_counts_its_start():
    slow_start = curve((0, 0), (5, 20), (6, 520), (7, 1_020))
    used = dict(zip(slow_start.samples, [0.0, 3.0, 3.5, 4.0], strict=True))

    turn = consumption.evaluate(slow_start, used, 1_000)

    assert turn.rate == pytest.approx(500)
    assert turn.cpu == pytest.approx(1)


def test_a_consumer_that_was_seen_only_at_its_end_is_rated_from_its_start():
    ended = curve((0, 0), (2, 1_000))

    assert consumption.evaluate(ended, {ended.samples[-1]: 1.0}, 1_000) == Turn(500, 1.0)


def test_the_delay_to_the_effect_is_compared_with_the_floor_of_the_same_round():
    floors = [latency.Delays(2, 20), latency.Delays(4, 20), latency.Delays(2, 20)]
    products = [latency.Delays(3, 30), latency.Delays(10, 30), latency.Delays(3, 30)]

    p50, *others = end_to_end.figures(floors, products)

    assert (p50.value, p50.met) == (1.5, True)
    assert [result.value for result in others] == [3, 30, 2, 20]


def test_keys_of_both_kinds_are_compared():
    turns = {
        dedup.FULL: [dedup.Turn(900, 480), dedup.Turn(450, 520)],
        dedup.EMPTY: [dedup.Turn(1_000, 400), dedup.Turn(500, 400)],
    }

    by_ids, full, _ = dedup.figures("event_ids", turns)
    by_digests, *_ = dedup.figures("digests", turns)

    assert (by_ids.value, by_ids.met) == (pytest.approx(0.9), True)
    assert full.note == "500 B of WAL a row"
    assert by_digests.name == "dedup_10m_vs_empty_sha256"
    assert (by_digests.value, by_digests.met) == (by_ids.value, True)


@pytest.mark.parametrize(
    ("deadlocks", "waited", "met"), [(0, 0.9, [True, True]), (1, 1.1, [False, False])]
)
def test_a_purge_makes_no_writer_wait_for_a_lock(deadlocks, waited, met):
    purge = Purge(
        rate=50_000, longest=0.05, deadlocks=deadlocks, waited=waited, quiet=100, beside=80
    )

    found = dedup.purge_figures(purge)

    assert [result.met for result in found if result.goal] == met
    assert [result.value for result in found if result.unit == "×"] == [pytest.approx(0.8)]


def test_a_scaled_plan_keeps_enough_to_measure():
    plan = Plan(rounds=1, scale=0.01, say=print)

    assert plan.rows(60_000) == 600
    assert plan.rows(3_000) == 500
    assert plan.rows(100) == 100
    assert plan.seconds(20) == 1
    assert plan.seconds(200) == 2


def test_bodies_are_json_of_one_kilobyte():
    jitter = random.Random(1)
    bodies = [outbox_rows.body(jitter, number=number) for number in (0, 999)]

    assert [len(body) for body in bodies] == [outbox_rows.BODY_BYTES] * 2
    assert json.loads(bodies[1])["number"] == "000999"
    assert bodies[0] != bodies[1]


def test_each_part_with_encryption_is_compared_with_itself_without_in_the_same_round():
    plain, encrypted = [100.0, 50.0, 10.0], [96.0, 45.0, 9.0]
    rates = {
        f"{part}, {name}": some
        for part in encryption.GOALS
        for name, some in ((encryption.PLAIN, plain), (encryption.ENCRYPTED, encrypted))
    }

    found = {
        result.name: result
        for result in encryption.figures(rates, {"consumer on_batch, plain": [0.2]})
    }

    assert found["encrypted_vs_plain, relay"].value == pytest.approx(0.9)
    assert found["encrypted_vs_plain, relay"].met is False
    assert found["encrypted_vs_plain, producer"].met is True
    assert found["consumer on_batch, plain: rate"].value == 50.0
    assert found["consumer on_batch, plain: CPU per 1,000"].value == 0.2
    assert set(encryption.COUNTS) == set(encryption.GOALS)
