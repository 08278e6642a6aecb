"""
Publishing a whole batch as one write to the connection.

`basic_publish` creates a future and an entry of the write queue for each message, and needs
several turns of the event loop. Here the frames of all messages are joined in memory, a light
PendingConfirm for each is put where aiormq expects a future, and one entry goes into the write
queue.

This uses internals of aiormq, but only those listed here; `incompatibility` checks them all:

- `lock` of a channel guards `delivery_tag`, `confirmations` and `message_id_delivery_tag`.
- `confirmations` maps each delivery tag to an object with `done`, `cancelled`, `set_result` and
  `set_exception`. aiormq removes it when the broker confirms the tag.
- `message_id_delivery_tag` maps the id of a returned message to its delivery tag.
- aiormq calls `_on_confirm_frame` with each confirm, and `_confirm_delivery` for one delivery tag.
  For a confirm with `multiple`, aiormq scans all outstanding tags and needs a turn of the event
  loop for each of them; `confirm_at_once` does neither.
- aiormq rejects futures of `create_future`, with the reason, when the channel or its connection
  ends. A wait for any other future would not end.
- `write_queue` takes ChannelFrames, whose payload is written unchanged.
"""

import asyncio
import inspect
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import aiormq
from aiormq.abc import ChannelFrame
from pamqp.commands import Basic

from outbox.transports.rabbitmq.confirms import ENCODING_ERRORS, Confirm
from outbox.transports.rabbitmq.frame_encoder import FRAME_OVERHEAD, publish_frames
from outbox.transports.rabbitmq.in_flight import InFlight, wait_for_confirms
from outbox.transports.rabbitmq.publish_gather import identify
from outbox.wire.codec import WireMessage


class Batch:
    """
    The confirms of one batch.

    Args:
        complete: Done after the last confirm; rejected when no further confirm can come.

    """

    __slots__ = ("complete", "confirms", "missing", "tags")

    def __init__(
        self, size: int, *, complete: "asyncio.Future[None]", tags: dict[str, int]
    ) -> None:
        self.confirms: list[Confirm] = [None] * size
        self.missing = size
        self.complete = complete
        self.tags = tags

    def add(self, position: int, confirm: Confirm) -> None:
        self.confirms[position] = confirm
        self.missing -= 1
        if not self.missing and not self.complete.done():
            self.complete.set_result(None)


class PendingConfirm:
    """
    Receives the confirm of one message from aiormq, with the methods of a future that it calls.

    It also accepts a confirm that comes after the deadline, and drops it: aiormq would log a
    returned message that it cannot match, including its body.
    """

    __slots__ = ("_batch", "_is_done", "_message_id", "_position", "_tag")

    def __init__(self, batch: Batch, position: int, message_id: str, tag: int) -> None:
        self._batch = batch
        self._position = position
        self._message_id = message_id
        self._tag = tag
        self._is_done = False

    def done(self) -> bool:
        return self._is_done

    def cancelled(self) -> bool:
        """Whether a second confirm needs no warning."""
        return self._is_done

    def set_result(self, confirm: Confirm) -> None:
        if self._is_done:
            return
        self._is_done = True
        self.release_id()
        self._batch.add(self._position, confirm)

    set_exception = set_result

    def release_id(self) -> None:
        """Free the message id for another publish."""
        tags = self._batch.tags
        if tags.get(self._message_id) == self._tag:
            del tags[self._message_id]


async def publish_batch(
    channel: Any, messages: Sequence[WireMessage], *, in_flight: InFlight, deadline: float
) -> list[Confirm]:
    """Publish *messages* on aiormq's *channel*; return one confirm for each."""
    confirms: list[Confirm] = [None] * len(messages)
    frames: dict[int, bytes] = {}
    ids: list[str] = []
    body_max = channel.connection.connection_tune.frame_max - FRAME_OVERHEAD
    for position, message in enumerate(map(identify, messages)):
        try:
            frames[position] = publish_frames(message, channel=channel.number, body_max=body_max)
            ids.append(str(message.message_id))
        except ENCODING_ERRORS as error:
            confirms[position] = error
    if frames:
        payload = b"".join(frames.values())
        async with in_flight.room(ids, deadline=deadline):
            found = await _send_and_wait(channel, ids, payload, deadline)
        for position, confirm in zip(frames, found, strict=True):
            confirms[position] = confirm
    return confirms


async def _send_and_wait(
    channel: Any, ids: Sequence[str], payload: bytes, deadline: float
) -> list[Confirm]:
    try:
        async with asyncio.timeout_at(deadline):
            batch = await _send(channel, ids, payload)
    except (TimeoutError, aiormq.exceptions.ChannelInvalidStateError) as error:
        return [error] * len(ids)
    try:
        await wait_for_confirms([batch.complete], connection=channel.connection, deadline=deadline)
        late = _reason(batch.complete)
    finally:
        batch.complete.cancel()
    return [late if confirm is None else confirm for confirm in batch.confirms]


async def _send(channel: Any, ids: Sequence[str], payload: bytes) -> Batch:
    """Register a PendingConfirm for each of *ids* and write *payload*: both, or neither."""
    async with channel.lock:
        tags = channel.message_id_delivery_tag
        batch = Batch(len(ids), complete=channel.create_future(), tags=tags)
        first = channel.delivery_tag + 1
        pending = [
            PendingConfirm(batch, tag - first, id_, tag) for tag, id_ in enumerate(ids, first)
        ]
        channel.confirmations.update(enumerate(pending, first))
        tags.update(zip(ids, range(first, first + len(ids)), strict=True))
        channel.delivery_tag += len(ids)
        try:
            await channel.write_queue.put(ChannelFrame(payload=payload, should_close=False))
        except BaseException:
            # The broker did not receive it, and continues counting after the last that it did.
            channel.delivery_tag = first - 1
            for tag, waiting in enumerate(pending, first):
                channel.confirmations.pop(tag, None)
                waiting.release_id()
            batch.complete.cancel()
            raise
    return batch


def confirm_at_once(channel: Any) -> None:
    """
    Make *channel* process each confirm in one step, even if many tags are outstanding.

    Delivery tags are registered in ascending order, so the tags of a confirm with `multiple` come
    first.
    """

    async def on_confirm_frame(frame: Basic.Ack | Basic.Nack) -> None:
        last = frame.delivery_tag or 0
        if frame.multiple:
            for tag in list(takewhile(lambda tag: tag <= last, channel.confirmations)):
                channel._confirm_delivery(tag, frame)  # noqa: SLF001 - see above
        else:
            channel._confirm_delivery(last, frame)  # noqa: SLF001

    channel._on_confirm_frame = on_confirm_frame  # noqa: SLF001


def _reason(complete: "asyncio.Future[None]") -> BaseException:
    """Return why confirms are missing."""
    if complete.done() and not complete.cancelled():
        return complete.exception() or TimeoutError()
    return TimeoutError()


async def incompatibility(channel: Any) -> str | None:
    """
    Return an internal of aiormq that `publish_batch` needs and *channel* lacks, or None.

    *channel* must be new; nothing is sent. A compatible channel uses `confirm_at_once` afterwards.
    """
    try:
        missing = await _first_incompatibility(channel)
    except Exception as error:  # noqa: BLE001 - another version of aiormq may raise any error
        missing = type(error).__name__
    if missing is not None:
        vars(channel).pop("_on_confirm_frame", None)
    return missing


async def _first_incompatibility(channel: Any) -> str | None:
    tune, future = channel.connection.connection_tune, channel.create_future()
    checks = {
        "create_future": asyncio.isfuture(future) and future.cancel(),
        "lock": hasattr(channel.lock, "__aenter__"),
        "number": channel.number > 0,
        "frame_max": tune.frame_max > FRAME_OVERHEAD,
        "delivery_tag": channel.delivery_tag == 0,
        "confirmations": channel.confirmations == {},
        "message_id_delivery_tag": channel.message_id_delivery_tag == {},
        "write_queue": isinstance(channel.write_queue, asyncio.Queue),
        "ChannelFrame": ChannelFrame(payload=b"", should_close=False).should_drain is False,
        "Returning": issubclass(aiormq.channel.Returning, asyncio.Future),
        "_on_confirm_frame": inspect.iscoroutinefunction(channel._on_confirm_frame),  # noqa: SLF001
        "publisher_confirms": channel.publisher_confirms is True,
        "on_return_raises": channel.on_return_raises is True,
    }
    for name, fine in checks.items():
        if not fine:
            return name
    return await _self_tested(channel)


async def _self_tested(channel: Any) -> str | None:
    """Confirm four publishes that were never sent, and check that each gets its confirm."""
    ids = {str(tag): tag for tag in range(1, 5)}
    loop = asyncio.get_running_loop()
    batch = Batch(len(ids), complete=loop.create_future(), tags=ids)
    for id_, tag in list(ids.items()):
        channel.confirmations[tag] = PendingConfirm(batch, tag - 1, id_, tag)
    confirm_at_once(channel)
    for frame in (Basic.Nack(3), Basic.Ack(2, multiple=True), Basic.Ack(4, multiple=True)):
        await channel._on_confirm_frame(frame)  # noqa: SLF001 - see above
    match batch.confirms:
        case [Basic.Ack(), Basic.Ack(), aiormq.exceptions.DeliveryError(), Basic.Ack()]:
            fine = batch.complete.done() and not batch.tags and not channel.confirmations
            return None if fine else "confirmations"
        case _:
            channel.confirmations.clear()
            return "_on_confirm_frame"
