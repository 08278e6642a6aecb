"""
Where the product's assemblies are given simulated things instead of real ones.

Only what their composition roots name is replaced: the engine, the transport, the lock on a file,
and chance. What they put together from it is theirs.
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
import relay.assembly
from outbox.database import file_lock, migrate
from outbox.runtime import process
from outbox.settings import SharedSettings
from tests.reliability.simulation.broker import Broker
from tests.reliability.simulation.ground import Ground
from tests.reliability.simulation.process import Process, current
from tests.reliability.simulation.transport import SimulatedTransport


class Locks:
    """What the operating system does for `flock`: locks end with their processes."""

    LOCK_EX = fcntl.LOCK_EX
    LOCK_NB = fcntl.LOCK_NB

    def __init__(self) -> None:
        self._holder: Process | None = None

    def flock(self, _descriptor: int, _operation: int) -> None:
        """Raises BlockingIOError if another process has the lock of the one file there is."""
        if self._holder is not None and self._holder.alive and self._holder is not current():
            raise BlockingIOError
        self._holder = current()


@contextmanager
def replaced(ground: Ground, broker: Broker, *, seed: int) -> Iterator[None]:
    """Have everything that is assembled in the block lead to *ground* and *broker*."""

    def transport(
        _settings: SharedSettings, *, name: str, connections: object
    ) -> SimulatedTransport:
        del name, connections
        return SimulatedTransport(broker, current())

    state = random.getstate()
    random.seed(seed)
    with ExitStack() as stack:
        for module, name, value in (
            (process, "create_engine", ground.engines.create),
            (consumer.assembly, "transport", transport),
            (relay.assembly, "transport", transport),
            (file_lock, "fcntl", Locks()),
            (migrate, "head", lambda: ground.head),
        ):
            stack.enter_context(patch.object(module, name, value))
        stack.enter_context(_silence())
        try:
            yield
        finally:
            random.setstate(state)


@contextmanager
def _silence() -> Iterator[None]:
    """Processes that are killed leave libraries with much to say."""
    before: dict[str, Any] = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        structlog.configure(**before)
