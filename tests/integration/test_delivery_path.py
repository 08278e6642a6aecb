"""
The files of the product that a delivery enters between the socket and its ack.

A reader who follows a message opens these files and no others.
"""

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from prometheus_client import CollectorRegistry
from sqlalchemy.engine import make_url

from consumer import Consumer, Message, assembly
from consumer.settings import ConsumerSettings
from consumer.telemetry import Telemetry
from outbox.database.engine import create_engine
from outbox.runtime.probes import Health
from outbox.transports.base import Outcome
from outbox.transports.connect import transport
from tests.support.builders import an_event, on_the_wire
from tests.support.pages import REPOSITORY

MOST_FILES = 20
PACKAGES = {"outbox", "consumer"}


class Profile:
    """The files in which a function of this thread was called between `start` and `stop`."""

    def __init__(self) -> None:
        self.files: set[str] = set()

    def start(self) -> None:
        sys.setprofile(self._called)

    def stop(self) -> None:
        sys.setprofile(None)

    def _called(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call":
            self.files.add(frame.f_code.co_filename)

    def of_product(self) -> list[str]:
        paths = (Path(file) for file in self.files)
        names = (path.relative_to(REPOSITORY) for path in paths if path.is_relative_to(REPOSITORY))
        return sorted(str(name) for name in names if name.parts[0] in PACKAGES)


async def test_a_delivery_enters_at_most_twenty_files(postgres_url, rabbitmq_url):
    """From the first handler's start to the third's: the second message came and was acked."""
    profile, stop, calls = Profile(), asyncio.Event(), []
    etl = Consumer("etl", bindings=["#"])

    @etl.on("test.happened")
    async def handle(message: Message[Any], _session: object) -> None:
        calls.append(message.id)
        if len(calls) == 1:
            profile.start()
        elif len(calls) == 3:
            profile.stop()
            stop.set()

    settings = ConsumerSettings(_env_file=None, broker_url=rabbitmq_url, concurrency=1)
    await assembly.prepare(etl, settings)
    messages = [on_the_wire(an_event(), exchange=settings.main_exchange) for _ in range(3)]
    async with transport(settings, name="test").publisher() as publisher:
        outcomes = await publisher.publish(messages, within=timedelta(seconds=10))
    assert set(outcomes) == {Outcome.ACKED}
    engine = create_engine(make_url(postgres_url), pool_size=5, application_name="test")
    telemetry = Telemetry(CollectorRegistry(), source="etl", queue="q", known=etl.handlers)
    tasks = assembly.assemble(etl, settings, engine, telemetry=telemetry, health=Health())

    try:
        async with asyncio.timeout(30):
            await tasks.worker.run(stop)
    finally:
        profile.stop()
        await engine.dispose()

    assert len(calls) == 3
    files = profile.of_product()
    assert len(files) <= MOST_FILES, "\n".join(files)
