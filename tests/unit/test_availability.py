from datetime import timedelta
from typing import Any

from prometheus_client import CollectorRegistry

from outbox.errors import BrokerUnavailable, DatabaseUnavailable
from outbox.runtime.process import Availability

PAUSE = timedelta(seconds=1)
LOST, REFUSED = BrokerUnavailable("the connection was lost"), DatabaseUnavailable("Error 28P01")


UP = ("server_available", "")


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def warning(self, event: str, *, problem: str, **_: Any) -> None:
        self.lines.append((event, problem))

    error = warning

    def info(self, event: str) -> None:
        self.lines.append((event, ""))

    def debug(self, *_: Any, **__: Any) -> None:
        pass


def test_a_problem_is_logged_once_and_its_end_is_logged():
    log = Log()
    availability = Availability(log, CollectorRegistry())

    availability.up()
    for problem in (LOST, LOST, REFUSED, REFUSED, LOST, REFUSED):
        availability.down(problem, pause=PAUSE)
    availability.up()
    availability.up()

    assert log.lines == [
        ("server_unavailable", "the connection was lost"),
        ("server_unavailable", "Error 28P01"),
        UP,
    ]


def test_a_problem_that_comes_back_is_logged_again():
    log = Log()
    availability = Availability(log, CollectorRegistry())

    for _ in range(2):
        availability.down(LOST, pause=PAUSE)
        availability.up()

    assert log.lines == [("server_unavailable", "the connection was lost"), UP] * 2


def test_a_server_that_stays_unavailable_is_logged_as_an_error_and_measured():
    log, registry, now = Log(), CollectorRegistry(), [0.0]
    availability = Availability(log, registry, clock=lambda: now[0])

    for seconds in range(0, 601, 100):
        now[0] = float(seconds)
        availability.down(LOST, pause=PAUSE)
    waited = registry.get_sample_value("mq_unavailable_seconds")
    availability.up()

    assert waited == 600
    assert registry.get_sample_value("mq_unavailable_seconds") == 0
    assert [event for event, _ in log.lines] == [
        "server_unavailable",
        "server_still_unavailable",
        "server_still_unavailable",
        "server_available",
    ]


def test_background_work_that_fails_is_logged_once_for_each_reason_and_again_after_a_success():
    log = Log()
    availability = Availability(log, CollectorRegistry())

    for error in (LOST, LOST, REFUSED, None, REFUSED):
        availability.background("sample", error)

    assert [problem for _, problem in log.lines] == [str(LOST), str(REFUSED), str(REFUSED)]


def test_a_server_is_available_again_when_no_part_of_the_process_waits_for_it():
    log, registry, now = Log(), CollectorRegistry(), [0.0]
    availability = Availability(log, registry, clock=lambda: now[0])

    availability.down(REFUSED, pause=PAUSE, by="check")
    now[0] = 3.0
    availability.down(REFUSED, pause=PAUSE)
    availability.up()
    waited = registry.get_sample_value("mq_unavailable_seconds")
    availability.up(by="check")

    assert waited == 3
    assert registry.get_sample_value("mq_unavailable_seconds") == 0
    assert log.lines == [("server_unavailable", "Error 28P01"), UP]
