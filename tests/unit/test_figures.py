import pytest
from prometheus_client import CollectorRegistry

from outbox.runtime.batch_histogram import BatchHistogram
from outbox.runtime.distribution import Distribution, together
from outbox.runtime.figures import Figures, ReportedFigures, read_figures


def a_histogram() -> BatchHistogram:
    return BatchHistogram("mq_x", "X.", bounds=(1, 10, 100), registry=CollectorRegistry())


def test_a_reader_gets_the_rates_and_times_of_the_last_minute():
    histogram = a_histogram()
    figures = Figures(began=0.0, lags={"way": histogram})
    figures.facts["queue"] = "q"
    for second in range(0, 121, 10):
        figures.counts["success"] += 20
        histogram.observe([5.0] * 2)
        report = figures.report(float(second))

    read = read_figures(report)

    assert read.since_start == {"success": 260}
    assert read.rates == {"success": 2.0}
    assert read.lags["way"].count == 12
    assert read.facts == {"queue": "q"}


def test_the_first_report_of_a_process_has_no_rate():
    assert read_figures(Figures(began=5.0).report(5.0)) == ReportedFigures()


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "text",
        {"lag": 1, "recent": [], "seconds": "x"},
        {"lag": {"way": {"bounds": [1], "counts": [1], "total": 0}}},
        {"lag": {"way": {"bounds": ["a"], "counts": [1, 2], "total": 0}}},
        {"since_start": {"success": "many"}, "recent": {"success": 1}, "seconds": 0},
        {"recent": {"success": 1}, "seconds": float("nan")},
        {"recent": {"success": 1}, "seconds": 10**400},
        {"recent": {"success": 10**400}, "seconds": 1},
        {"recent": {"success": 1}, "seconds": 5e-324},
        {"lag": {"way": {"bounds": [1], "counts": [1, 1], "total": float("nan")}}},
        {"lag": {"way": {"bounds": [1], "counts": [1, float("inf")], "total": 1}}},
        {"lag": {"way": {"bounds": [10**400], "counts": [1, 1], "total": 1}}},
        {"lag": {"way": {"bounds": [1e300], "counts": [1, 1], "total": 1}}},
    ],
)
def test_figures_that_this_version_cannot_read_are_absent(value):
    assert read_figures(value) == ReportedFigures()


def test_a_quantile_is_interpolated_within_its_bucket():
    spread = Distribution((1, 10, 100), (5, 5, 0, 0), 30.0)

    assert spread.quantile(0.5) == 1.0
    assert spread.quantile(0.75) == 5.5
    assert spread.quantile(1.0) == 10.0
    assert spread.mean == 3.0


def test_a_quantile_in_the_last_bucket_is_the_highest_bound():
    assert Distribution((1, 10), (0, 0, 4), 400.0).quantile(0.5) == 10.0


def test_nothing_has_neither_mean_nor_quantile():
    empty = Distribution((1, 10), (0, 0, 0), 0.0)

    assert (empty.mean, empty.quantile(0.5)) == (None, None)


def test_distributions_of_several_processes_add_up_and_other_bounds_are_left_out():
    one = Distribution((1, 10), (1, 2, 3), 40.0)

    assert together([one, one, Distribution((7,), (9, 9), 1.0)]) == Distribution(
        [1, 10], [2, 4, 6], 80.0
    )
    assert together([]) is None


def test_equal_durations_are_counted_as_one_after_another():
    at_once, alone = a_histogram(), a_histogram()

    for seconds in (0.5, 1.0, 1.5, 100.0, 1000.0, -1.0):
        at_once.observe_equal(seconds, 3)
        alone.observe([seconds] * 3)

    assert at_once.distribution.counts == alone.distribution.counts
    assert at_once.distribution.total == pytest.approx(alone.distribution.total)
