"""
Substitutes simulated parts for the real ones where the product's processes look them up.

Only the engine, the transport, the management API, the file lock and the source of randomness are
replaced. All other parts are the product's own.
"""

import fcntl
import logging
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import structlog

import consumer.assembly
import consumer.service
import relay.assembly
from outbox.database import migrate, sqlite_file_lock
from outbox.runtime import process
from outbox.settings import SharedSettings
from tests.reliability.simulation.broker import Broker
from tests.reliability.simulation.database_files import DatabaseFiles
from tests.reliability.simulation.process import Process, current
from tests.reliability.simulation.transport import SimulatedTransport


class Locks:
    """Simulates `flock`: a lock ends with its process."""

    LOCK_EX = fcntl.LOCK_EX
    LOCK_NB = fcntl.LOCK_NB

    def __init__(self) -> None:
        self._holder: Process | None = None

    def flock(self, _descriptor: int, _operation: int) -> None:
        """Raises BlockingIOError if another process holds the lock on the only file."""
        if self._holder is not None and self._holder.alive and self._holder is not current():
            raise BlockingIOError
        self._holder = current()


@contextmanager
def replaced(database_files: DatabaseFiles, broker: Broker, *, seed: int) -> Iterator[None]:
    """Make the product's assemblies use *database_files* and *broker* during the block."""

    def transport(
        _settings: SharedSettings, *, name: str, connections: object
    ) -> SimulatedTransport:
        del name, connections
        return SimulatedTransport(broker, current())

    state = random.getstate()
    random.seed(seed)
    with ExitStack() as stack:
        for module, name, value in (
            (process, "create_engine", database_files.engines.create),
            (consumer.assembly, "transport", transport),
            (relay.assembly, "transport", transport),
            (consumer.assembly, "management", lambda _settings: None),
            (consumer.service, "management", lambda _settings: None),
            (sqlite_file_lock, "fcntl", Locks()),
            (migrate, "head", lambda: database_files.head),
        ):
            stack.enter_context(patch.object(module, name, value))
        stack.enter_context(_silence())
        try:
            yield
        finally:
            random.setstate(state)


@contextmanager
def _silence() -> Iterator[None]:
    """Silence the libraries' log of killed processes."""
    before: dict[str, Any] = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        structlog.configure(**before)
