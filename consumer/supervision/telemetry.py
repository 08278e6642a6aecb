"""
Events of a supervisor, written to the log and counted in metrics.
"""

from datetime import timedelta

from prometheus_client import CollectorRegistry

from consumer.supervision.scaling import Load
from outbox.errors import Unavailable
from outbox.runtime import logs
from outbox.runtime.in_memory import Counter, Gauge
from outbox.runtime.process import Availability
from outbox.runtime.service import ExitCode

_EXPECTED = frozenset({ExitCode.STOPPED, ExitCode.DRAIN_DEADLINE})


class Telemetry:
    """Logs and counts the events of the supervisor; its metrics are in *registry*."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._log = logs.get("supervisor")
        # The processes have gauges of these names, on the same page.
        self.availability = Availability(self._log, CollectorRegistry())
        self._wanted = Gauge(
            "mq_processes_wanted",
            "Processes of the consumer that its supervisor keeps running.",
            registry=registry,
        )
        self._ready = Gauge(
            "mq_processes_ready", "Those of them that are ready.", registry=registry
        )
        self._ended = Counter(
            "mq_processes_ended",
            "Processes that ended although their supervisor had not asked them to; each was "
            "started again.",
            registry=registry,
        )

    def supervising(self, *, minimum: int, maximum: int) -> None:
        """The supervisor starts the minimum of processes."""
        self._log.info("supervisor_started", minimum=minimum, maximum=maximum)

    def process_started(self, number: int, pid: int) -> None:
        """The process of this *number* was started."""
        self._log.info("process_started", process_number=number, pid=pid)

    def process_not_started(self, number: int, reason: str) -> None:
        """The system refused to start a process; *reason* is the name of its error."""
        self._log.error("process_not_started", process_number=number, reason=reason)

    def process_ended(self, number: int, code: int, *, pause: timedelta) -> None:
        """A process has ended by itself; another one follows after *pause*."""
        self._ended.inc()
        seconds = pause.total_seconds()
        if code in _EXPECTED:
            self._log.warning(
                "process_ended", process_number=number, exit_code=code, pause_seconds=seconds
            )
        else:
            self._log.error(
                "process_ended", process_number=number, exit_code=code, pause_seconds=seconds
            )

    def process_stopped(self, number: int, code: int) -> None:
        """A process has ended as it was asked to."""
        self._log.info("process_stopped", process_number=number, exit_code=code)

    def process_killed(self, number: int) -> None:
        """A process did not end in time after it was asked to."""
        self._log.error("process_killed", process_number=number)

    def gave_up(self, number: int, code: int, decision: ExitCode) -> None:
        """The end of a process with *code* ends the supervisor with the code of the *decision*."""
        self._log.error(
            "supervisor_gave_up", process_number=number, exit_code=code, gives=decision.name
        )

    def scaled(self, load: Load, number: int) -> None:
        """The *load* asks for this *number* of processes."""
        self._log.info(
            "processes_scaled",
            of=load.processes,
            to=number,
            waiting=load.waiting,
            per_second=round(load.rate, 1),
        )

    def looked(self, error: Unavailable | None) -> None:
        """The depth of the queue was read, unless *error* prevented it."""
        self.availability.background("scale", error)

    def counted(self, *, wanted: int, ready: int) -> None:
        """So many processes shall run, and so many are ready."""
        self._wanted.set(wanted)
        self._ready.set(ready)
