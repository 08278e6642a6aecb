"""
The options with which `consumer run` starts several processes.
"""

from datetime import timedelta

import pytest

from consumer import Consumer
from consumer.settings import ConsumerSettings
from consumer.supervision.options import MOST_PROCESSES, Processes, limits, read
from consumer.supervision.scaling import Limits
from outbox.errors import ConfigurationError

POSTGRES = "postgresql://relay@localhost/app"
AUTO = Processes(Limits(1, 4), auto=True)


RABBITMQ = "amqp://guest:guest@localhost/"


def settings(url=POSTGRES):
    return ConsumerSettings(_env_file=None, database_url=url, broker_url=RABBITMQ)


def consumer(**options):
    return Consumer("etl", bindings=["#"], **options)


@pytest.mark.parametrize(
    ("processes", "minimum", "maximum", "expected"),
    [
        ("1", None, None, Processes(Limits(1, 1), auto=False)),
        ("12", None, None, Processes(Limits(12, 12), auto=False)),
        ("auto", None, None, Processes(Limits(1, 4), auto=True)),
        ("auto", 2, None, Processes(Limits(2, 4), auto=True)),
        ("auto", 6, None, Processes(Limits(6, 6), auto=True)),
        ("auto", None, 9, Processes(Limits(1, 9), auto=True)),
    ],
)
def test_the_number_of_processes_is_fixed_or_between_limits(processes, minimum, maximum, expected):
    assert read(processes, minimum, maximum, cores=4) == expected


@pytest.mark.parametrize("number", ["0", "-1", "+2", " 2", "2.0", "٢", "", "all", "257", "9" * 99])
def test_another_number_is_refused_by_the_name_of_the_option(number):
    with pytest.raises(ConfigurationError, match=f"--processes: .* 1 to {MOST_PROCESSES}"):
        read(number, None, None, cores=4)


@pytest.mark.parametrize(
    ("processes", "minimum", "maximum", "option"),
    [
        ("2", 1, None, "--min-processes: needs --processes auto"),
        ("2", None, 4, "--max-processes: needs --processes auto"),
        (None, None, 4, "--max-processes: needs --processes auto"),
        ("auto", 5, 4, "--min-processes: must not be above --max-processes"),
        ("auto", None, 257, "--max-processes: must be at most 256"),
        ("auto", 257, None, "--min-processes: must be at most 256"),
    ],
)
def test_limits_that_make_no_sense_are_refused(processes, minimum, maximum, option):
    with pytest.raises(ConfigurationError, match=option):
        read(processes, minimum, maximum, cores=4)


def test_an_ordered_consumer_does_not_follow_the_load_because_one_process_works():
    with pytest.raises(ConfigurationError, match="one process works and others stand by"):
        limits(AUTO, consumer(ordered=True), settings())


def test_an_ordered_consumer_may_have_a_fixed_number_of_processes_that_stand_by():
    fixed = Processes(Limits(2, 2), auto=False)

    assert limits(fixed, consumer(ordered=True), settings()) == Limits(2, 2)


def test_an_ordered_consumer_with_partitions_follows_the_load():
    ordered = consumer(ordered=True, partitions=4)

    assert limits(AUTO, ordered, settings()) == Limits(1, 4)


def test_a_consumer_on_sqlite_does_not_follow_the_load_because_there_is_one_writer():
    with pytest.raises(ConfigurationError, match="SQLite has one writer"):
        limits(AUTO, consumer(), settings("sqlite:///outbox.db"))


def test_handlers_that_wait_outside_a_transaction_may_follow_the_load_on_sqlite():
    etl = consumer()

    @etl.on_leased("test.happened", lease=timedelta(seconds=5))
    async def call(message: object) -> None: ...

    assert limits(AUTO, etl, settings("sqlite:///outbox.db")) == Limits(1, 4)
