"""
Options of `consumer run` for several processes that cannot work end it before it starts one.
"""

import pytest

from outbox.runtime.service import ExitCode
from tests.support.commands import CommandLine

SLOW, ORDERED = "tests.support.slow:consumer", "tests.support.ordered:consumer"
POSTGRES = "postgresql://relay@localhost/app"


@pytest.fixture
def consumer(tmp_path):
    command = CommandLine(tmp_path, MQ_DATABASE_URL=POSTGRES, MQ_ENABLE_METRICS="false")

    def run(*arguments, **settings):
        return command("consumer", "run", *arguments, **settings)

    return run


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--processes", "0"], "--processes: must be auto, or a number from 1 to 256"),
        (["--processes", "many"], "--processes: must be auto, or a number from 1 to 256"),
        (["--processes", "2", "--max-processes", "4"], "--max-processes: needs --processes auto"),
        (
            ["--processes", "auto", "--min-processes", "3", "--max-processes", "2"],
            "--min-processes: must not be above --max-processes",
        ),
    ],
)
def test_options_that_cannot_work_are_refused_by_their_names(consumer, arguments, problem):
    ended = consumer(SLOW, *arguments)

    assert ended.code == ExitCode.BAD_CONFIGURATION
    assert ended.err.splitlines() == [f"error: {problem}"]


def test_an_ordered_consumer_does_not_follow_the_load(consumer):
    ended = consumer(ORDERED, "--processes", "auto")

    assert ended.code == ExitCode.BAD_CONFIGURATION
    assert "--processes auto: consumer ordered is ordered, so one process works" in ended.err


def test_sqlite_has_one_writer_so_its_consumers_do_not_follow_the_load(consumer, sqlite_url):
    ended = consumer(SLOW, "--processes", "auto", MQ_DATABASE_URL=sqlite_url)

    assert ended.code == ExitCode.BAD_CONFIGURATION
    assert "--processes auto: SQLite has one writer" in ended.err


def test_a_module_that_does_not_exist_is_found_before_a_process_starts(consumer):
    ended = consumer("tests.support.missing:consumer", "--processes", "2")

    assert ended.code == ExitCode.BAD_CONFIGURATION
    assert "there is no module tests.support.missing" in ended.err
    assert "process_started" not in ended.err


def test_a_variable_that_no_supervisor_has_set_is_refused(consumer):
    ended = consumer(SLOW, OUTBOX_SUPERVISED="1:999999")

    assert ended.code == ExitCode.BAD_CONFIGURATION
    assert "OUTBOX_SUPERVISED: only `consumer run --processes` sets it: unset it" in ended.err
