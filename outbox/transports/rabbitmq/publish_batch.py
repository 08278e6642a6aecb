"""
Publishing a whole batch as one write to the connection.

`basic_publish` makes a future and an entry of the write queue for each message, and the event
loop turns several times for it. Here the frames of all messages are assembled in memory, a light
slot for each is put where aiormq looks for whom to tell about a confirmation, and one entry goes
into the write queue.

This reaches into aiormq, though not below what is named here; `incompatibility` finds out whether
it is all there:

- `lock` of a channel guards `delivery_tag`, `confirmations` and `message_id_delivery_tag`.
- `confirmations` holds, for each delivery tag, something that `done`, `cancelled`, `set_result`
  and `set_exception` can be called on. It is taken out when the broker answers.
- `message_id_delivery_tag` leads from a returned message to its delivery tag.
- `_on_confirm_frame` is called with each confirmation, and `_confirm_delivery` for one delivery
  tag. aiormq looks through all that is outstanding for each confirmation of several, and goes
  through the event loop for each of them; `confirm_at_once` does neither.
- Futures of `create_future` are rejected, with the reason, when the channel or its connection
  ends. Any other would be waited for in vain.
- `write_queue` takes ChannelFrames, whose payload is written as it is.
"""

import asyncio
import inspect
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import aiormq
from aiormq.abc import ChannelFrame
from pamqp.commands import Basic

from outbox.transports.rabbitmq.confirms import CANNOT_BE_WRITTEN, Confirm
from outbox.transports.rabbitmq.frame_encoder import FRAME_OVERHEAD, publish_frames
from outbox.transports.rabbitmq.in_flight import InFlight, wait_for_answers
from outbox.transports.rabbitmq.publish_gather import identify
from outbox.wire.codec import WireMessage


class Batch:
    """
    Answers that are waited for together.

    Args:
        complete: Is done when the last answer has come, or rejected when none can come any more.

    """

    __slots__ = ("answers", "complete", "missing", "tags")

    def __init__(
        self, size: int, *, complete: "asyncio.Future[None]", tags: dict[str, int]
    ) -> None:
        self.answers: list[Confirm] = [None] * size
        self.missing = size
        self.complete = complete
        self.tags = tags

    def answer(self, position: int, answer: Confirm) -> None:
        self.answers[position] = answer
        self.missing -= 1
        if not self.missing and not self.complete.done():
            self.complete.set_result(None)


class PendingConfirm:
    """
    Where aiormq puts the answer to one message; the part of a future that it makes use of.

    An answer that comes when nobody waits any more is taken like any other, and read by nobody:
    aiormq would log a returned message that it cannot attribute, with its body.
    """

    __slots__ = ("_answered", "_batch", "_message_id", "_position", "_tag")

    def __init__(self, batch: Batch, position: int, message_id: str, tag: int) -> None:
        self._batch = batch
        self._position = position
        self._message_id = message_id
        self._tag = tag
        self._answered = False

    def done(self) -> bool:
        return self._answered

    def cancelled(self) -> bool:
        """Whether a second answer is nothing to warn of."""
        return self._answered

    def set_result(self, answer: Confirm) -> None:
        if self._answered:
            return
        self._answered = True
        self.forget()
        self._batch.answer(self._position, answer)

    set_exception = set_result

    def forget(self) -> None:
        """Let another publish have the message id."""
        tags = self._batch.tags
        if tags.get(self._message_id) == self._tag:
            del tags[self._message_id]


async def publish_batch(
    channel: Any, messages: Sequence[WireMessage], *, in_flight: InFlight, deadline: float
) -> list[Confirm]:
    """Publish *messages* on aiormq's *channel*; one answer for each."""
    answers: list[Confirm] = [None] * len(messages)
    frames: dict[int, bytes] = {}
    ids: list[str] = []
    body_max = channel.connection.connection_tune.frame_max - FRAME_OVERHEAD
    for position, message in enumerate(map(identify, messages)):
        try:
            frames[position] = publish_frames(message, channel=channel.number, body_max=body_max)
            ids.append(str(message.message_id))
        except CANNOT_BE_WRITTEN as error:
            answers[position] = error
    if frames:
        payload = b"".join(frames.values())
        async with in_flight.room(ids, deadline=deadline):
            found = await _send_and_wait(channel, ids, payload, deadline)
        for position, answer in zip(frames, found, strict=True):
            answers[position] = answer
    return answers


async def _send_and_wait(
    channel: Any, ids: Sequence[str], payload: bytes, deadline: float
) -> list[Confirm]:
    try:
        async with asyncio.timeout_at(deadline):
            batch = await _send(channel, ids, payload)
    except (TimeoutError, aiormq.exceptions.ChannelInvalidStateError) as error:
        return [error] * len(ids)
    try:
        await wait_for_answers([batch.complete], connection=channel.connection, deadline=deadline)
        late = _reason(batch.complete)
    finally:
        batch.complete.cancel()
    return [late if answer is None else answer for answer in batch.answers]


async def _send(channel: Any, ids: Sequence[str], payload: bytes) -> Batch:
    """Register a slot for each of *ids*, and write *payload*: both, or neither."""
    async with channel.lock:
        tags = channel.message_id_delivery_tag
        batch = Batch(len(ids), complete=channel.create_future(), tags=tags)
        first = channel.delivery_tag + 1
        slots = [
            PendingConfirm(batch, tag - first, id_, tag) for tag, id_ in enumerate(ids, first)
        ]
        channel.confirmations.update(enumerate(slots, first))
        tags.update(zip(ids, range(first, first + len(ids)), strict=True))
        channel.delivery_tag += len(ids)
        try:
            await channel.write_queue.put(ChannelFrame(payload=payload, should_close=False))
        except BaseException:
            # The broker has not seen it, and counts on from the last that it has seen.
            channel.delivery_tag = first - 1
            for tag, slot in enumerate(slots, first):
                channel.confirmations.pop(tag, None)
                slot.forget()
            batch.complete.cancel()
            raise
    return batch


def confirm_at_once(channel: Any) -> None:
    """
    Let *channel* hand on what is confirmed at once, however much is outstanding.

    Delivery tags are registered in ascending order, so those that a confirmation of several is
    for come first.
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
    """Why answers are missing."""
    if complete.done() and not complete.cancelled():
        return complete.exception() or TimeoutError()
    return TimeoutError()


async def incompatibility(channel: Any) -> str | None:
    """
    What of aiormq's *channel*, not in use yet, is not as `publish_batch` needs it; None if all is.

    Nothing is sent. A channel that is fit confirms at once from now on.
    """
    try:
        flaw = await _first_flaw(channel)
    except Exception as error:  # noqa: BLE001 - whatever another version of aiormq may raise
        flaw = type(error).__name__
    if flaw is not None:
        vars(channel).pop("_on_confirm_frame", None)
    return flaw


async def _first_flaw(channel: Any) -> str | None:
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
    return await _rehearsed(channel)


async def _rehearsed(channel: Any) -> str | None:
    """Answer four publishes that never were, as the broker would."""
    ids = {str(tag): tag for tag in range(1, 5)}
    loop = asyncio.get_running_loop()
    batch = Batch(len(ids), complete=loop.create_future(), tags=ids)
    for id_, tag in list(ids.items()):
        channel.confirmations[tag] = PendingConfirm(batch, tag - 1, id_, tag)
    confirm_at_once(channel)
    for frame in (Basic.Nack(3), Basic.Ack(2, multiple=True), Basic.Ack(4, multiple=True)):
        await channel._on_confirm_frame(frame)  # noqa: SLF001 - see above
    match batch.answers:
        case [Basic.Ack(), Basic.Ack(), aiormq.exceptions.DeliveryError(), Basic.Ack()]:
            fine = batch.complete.done() and not batch.tags and not channel.confirmations
            return None if fine else "confirmations"
        case _:
            channel.confirmations.clear()
            return "_on_confirm_frame"
