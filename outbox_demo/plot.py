"""
What a run is to be.
"""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from consumer.settings import ConsumerSettings
from outbox_demo.run import Run
from outbox_demo.spool import Intended


@dataclass(frozen=True, slots=True)
class Plot:
    """What shall happen, where, and within which *deadline*."""

    run: Run
    intended: Intended
    settings: ConsumerSettings
    directory: Path
    deadline: timedelta
    seed: int
