"""
The product's relay, which also records when each event was confirmed.

    python -m tests.benchmarks.recording_relay FILE

It writes one line for each event: its id, and the monotonic clock, which all processes share.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from outbox.cli import start
from outbox.runtime import service
from outbox.transports.base import Outcome
from relay.row import Row
from relay.service import serve
from relay.settings import RelaySettings
from relay.telemetry import Telemetry


class RecordingTelemetry(Telemetry):
    """Telemetry that appends confirmed events to *file*."""

    def __init__(self, *arguments: Any, file: Path, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._file = file.open("a", buffering=1)

    def published(
        self, rows: Sequence[Row], outcomes: Mapping[int, Outcome], *, took: timedelta
    ) -> None:
        now = time.monotonic()
        super().published(rows, outcomes, took=took)
        for row in rows:
            if outcomes.get(row.id) is Outcome.ACKED:
                self._file.write(f"{row.values['event_id']} {now}\n")


def main(file: Path) -> None:
    """Run as `relay run` does."""
    settings = start.settings(RelaySettings, process="relay")

    def telemetry(*arguments: Any, **named: Any) -> Telemetry:
        return RecordingTelemetry(*arguments, file=file, **named)

    code = service.run(
        lambda stop: serve(settings, stop, telemetry=telemetry), drain=settings.drain
    )
    raise SystemExit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
