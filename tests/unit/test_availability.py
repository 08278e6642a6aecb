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

    def warning(self, event: str, *, problem: str) -> None:
        self.lines.append((event, problem))

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
