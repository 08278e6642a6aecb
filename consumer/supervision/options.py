"""
The options of `consumer run` that ask for a supervisor: pure.
"""

import os
from dataclasses import dataclass

from consumer.checks import is_partitioned
from consumer.consumer import Consumer
from consumer.settings import ConsumerSettings
from consumer.supervision.scaling import Limits
from outbox.errors import ConfigurationError

AUTO = "auto"
MOST_PROCESSES = 256


@dataclass(frozen=True, slots=True)
class Processes:
    """How many processes shall run; their number follows the load if the options say *auto*."""

    limits: Limits
    auto: bool


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read(
    processes: str | None, minimum: int | None, maximum: int | None, *, cores: int
) -> Processes:
    """
    The number for which --processes, --min-processes and --max-processes ask, on so many *cores*.

    Raises ConfigurationError, which names the option.
    """
    if processes == AUTO:
        least = minimum or 1
        most = max(min(cores, MOST_PROCESSES), least) if maximum is None else maximum
        for option, number in (("--min-processes", least), ("--max-processes", most)):
            if number > MOST_PROCESSES:
                raise ConfigurationError(f"{option}: must be at most {MOST_PROCESSES}")
        if least > most:
            raise ConfigurationError("--min-processes: must not be above --max-processes")
        return Processes(Limits(least, most), auto=True)
    for option, value in (("--min-processes", minimum), ("--max-processes", maximum)):
        if value is not None:
            raise ConfigurationError(f"{option}: needs --processes auto")
    fixed = _number(processes or "")
    return Processes(Limits(fixed, fixed), auto=False)


def _number(processes: str) -> int:
    # `int` also takes signs, spaces and digits of other scripts.
    is_number = processes.isascii() and processes.isdecimal()
    number = int(processes) if is_number and len(processes) < len(str(MOST_PROCESSES)) + 1 else 0
    if not 1 <= number <= MOST_PROCESSES:
        raise ConfigurationError(
            f"--processes: must be auto, or a number from 1 to {MOST_PROCESSES}"
        )
    return number


def limits(processes: Processes, consumer: Consumer, settings: ConsumerSettings) -> Limits:
    """
    The limits for *consumer*, of which more processes may be of no use.

    Raises ConfigurationError if the number shall follow the load, and only one process can work.
    """
    if not processes.auto:
        return processes.limits
    if consumer.ordered and not is_partitioned(consumer, settings):
        raise ConfigurationError(
            f"--processes auto: consumer {consumer.name} is ordered, so one process works and "
            "others stand by: use --processes 2"
        )
    if settings.database.get_backend_name() == "sqlite" and not _waits_outside(consumer):
        raise ConfigurationError(
            "--processes auto: SQLite has one writer, so more processes handle no more messages: "
            "use Postgres, or a fixed number"
        )
    return processes.limits


def _waits_outside(consumer: Consumer) -> bool:
    """Whether a handler works without a transaction, so that it does not keep others waiting."""
    return any(handler.lease is not None for handler in consumer.handlers.values())
