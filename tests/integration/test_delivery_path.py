"""
The files of the product that a delivery enters between the socket and its ack.

A reader who follows a message opens these files and no others.
"""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import aio_pika
from prometheus_client import CollectorRegistry
from sqlalchemy.engine import make_url

from consumer import Consumer, Message, assembly, service
from consumer.settings import ConsumerSettings
from consumer.telemetry import Telemetry
from outbox.database.engine import create_engine
from outbox.runtime.probes import Health
from outbox.transports.rabbitmq import connection as rabbitmq_connection
from outbox.transports.rabbitmq.publish_gather import properties
from tests.support.builders import an_event, on_the_wire
from tests.support.eventually import eventually
from tests.support.pages import REPOSITORY

MOST_FILES = 25
PACKAGES = {"outbox", "consumer"}


class Profile:
    """The files in which a function of this thread began between `start` and `stop`."""

    def __init__(self) -> None:
        self._functions: dict[str, str] = {}
        self._resumed: set[FrameType] = set()

    def start(self) -> None:
        # A coroutine that was running before is resumed, which looks like a call.
        self._resumed = {frame for task in asyncio.all_tasks() for frame in frames_of(task)}
        sys.setprofile(self._called)

    def stop(self) -> None:
        sys.setprofile(None)

    def _called(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call" and frame not in self._resumed:
            code = frame.f_code
            self._functions.setdefault(code.co_filename, code.co_qualname)

    def of_product(self) -> list[str]:
        """Each file, and the first function that was called in it."""
        called = {Path(file): function for file, function in self._functions.items()}
        return sorted(
            f"{name}: {function}"
            for path, function in called.items()
            if path.is_relative_to(REPOSITORY)
            and (name := path.relative_to(REPOSITORY)).parts[0] in PACKAGES
        )


def frames_of(task: asyncio.Task[Any]) -> Iterator[FrameType]:
    """The frames of the coroutines that *task* is suspended in."""
    coroutine: Any = task.get_coro()
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        yield frame
        coroutine = coroutine.cr_await


async def test_a_delivery_enters_at_most_twenty_five_files(postgres_url, rabbitmq_url):
    """From the publish of the third message to the fourth's handler: the third was acked."""
    profile, stop = Profile(), asyncio.Event()
    called: asyncio.Queue[str] = asyncio.Queue()
    etl = Consumer("etl", bindings=["#"])

    @etl.on("test.happened")
    async def handle(message: Message[Any], _session: object) -> None:
        called.put_nowait(str(message.id))

    settings = ConsumerSettings(_env_file=None, broker_url=rabbitmq_url, concurrency=1)
    await service.prepare(etl, settings)
    # The connection that declared the queues closes in the background: no work of a delivery.
    await eventually(lambda: not rabbitmq_connection._CLOSING)
    engine = create_engine(make_url(postgres_url), pool_size=5, application_name="test")
    telemetry = Telemetry(CollectorRegistry(), source="etl", queue="q", known=etl.handlers)
    tasks = assembly.assemble(etl, settings, engine, telemetry=telemetry, health=Health())
    working = asyncio.create_task(tasks.worker.run(stop))
    messages = [on_the_wire(an_event(), exchange=settings.main_exchange) for _ in range(4)]
    prepared = [(message, properties(message)) for message in messages]

    async with await aio_pika.connect(rabbitmq_url) as connection, connection.channel() as channel:
        underlay = await channel.get_underlay_channel()
        for message, its_properties in prepared:
            # By the client library alone, so that a publish enters no file of the product.
            await underlay.basic_publish(
                message.body,
                exchange=message.exchange,
                routing_key=message.routing_key,
                properties=its_properties,
            )
            async with asyncio.timeout(30):
                assert await called.get() == message.message_id
            if message is messages[1]:
                profile.start()
    profile.stop()
    stop.set()
    await working
    await engine.dispose()

    files = profile.of_product()
    assert any("frame_reader.py" in file for file in files)
    assert len(files) <= MOST_FILES, "\n".join(files)
