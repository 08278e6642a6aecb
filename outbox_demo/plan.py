"""
The inputs of a run.
"""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from consumer.settings import ConsumerSettings
from outbox_demo.events_file import Expected
from outbox_demo.run import Run


@dataclass(frozen=True, slots=True)
class Plan:
    """The run, the numbers that it must reach within *deadline*, and where it works."""

    run: Run
    expected: Expected
    settings: ConsumerSettings
    directory: Path
    deadline: timedelta
    seed: int
