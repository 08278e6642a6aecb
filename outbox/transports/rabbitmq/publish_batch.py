"""
Publishing a whole batch as one write to the connection.

`basic_publish` creates a future and an entry of the write queue for each message, and needs
several turns of the event loop. Here the frames of all messages are joined in memory, one Batch
expects their confirms, and one entry goes into the write queue.

This uses internals of aiormq, but only those listed here; `incompatibility` checks them all:

- `lock` of a channel guards `delivery_tag`, `confirmations` and `message_id_delivery_tag`.
- aiormq calls `_on_confirm_frame` with each confirm, and it calls `_confirm_delivery` for one
  delivery tag, which removes the future of that tag from `confirmations` and sets its result.
- `_on_return_frame` reads a returned message, its header by `__get_content_header`, and gets its
  delivery tag from `message_id_delivery_tag.get`. aiormq takes the future out of `confirmations`
  with `pop`, stores a `Returning` in its place, and calls the future's `set_exception`. Both
  attributes may be other mappings; see `unconfirmed`.
- aiormq rejects futures of `create_future`, with the reason, when the channel or its connection
  ends. A wait for any other future would not end.
- `write_queue` takes ChannelFrames, whose payload is written unchanged.
"""

import asyncio
import inspect
from collections.abc import Sequence
from typing import Any

import aiormq
from aiormq.abc import ChannelFrame
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from outbox.transports.rabbitmq.confirms import ENCODING_ERRORS, Confirm
from outbox.transports.rabbitmq.frame_encoder import FRAME_OVERHEAD
from outbox.transports.rabbitmq.frame_layout import message_frames
from outbox.transports.rabbitmq.in_flight import InFlight, wait_for_confirms
from outbox.transports.rabbitmq.publish_gather import identify
from outbox.transports.rabbitmq.unconfirmed import Batch, take_over
from outbox.wire.codec import WireMessage

SELF_TEST_SECONDS = 1.0


async def publish_batch(
    channel: Any, messages: Sequence[WireMessage], *, in_flight: InFlight, deadline: float
) -> list[Confirm]:
    """Publish *messages* on aiormq's *channel*; return one confirm for each."""
    pieces: list[bytes] = []
    ids: list[str] = []
    refused: dict[int, Confirm] = {}
    number = channel.number
    body_max = channel.connection.connection_tune.frame_max - FRAME_OVERHEAD
    for position, given in enumerate(messages):
        message = given if given.message_id else identify(given)
        try:
            pieces += message_frames(message, channel=number, body_max=body_max)
            ids.append(str(message.message_id))
        except ENCODING_ERRORS as error:
            refused[position] = error
    if not ids:
        return list(refused.values())
    payload = b"".join(pieces)
    async with in_flight.room(ids, deadline=deadline):
        confirms = await _send_and_wait(channel, ids, payload, deadline)
    for position, confirm in refused.items():
        confirms.insert(position, confirm)
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
        await wait_for_confirms(
            [batch.complete],
            connection=channel.connection,
            deadline=deadline,
            missing=lambda: channel.confirmations.missing_up_to(batch.last),
        )
        late = _reason(batch.complete)
    finally:
        batch.complete.cancel()
    if not batch.missing:
        return batch.confirms
    return [late if confirm is None else confirm for confirm in batch.confirms]


async def _send(channel: Any, ids: Sequence[str], payload: bytes) -> Batch:
    """Begin a batch of *ids* and write *payload*: both, or neither."""
    async with channel.lock:
        first = channel.delivery_tag + 1
        batch = Batch(first, ids, complete=channel.create_future())
        channel.confirmations.begin(batch)
        channel.delivery_tag += len(ids)
        try:
            await channel.write_queue.put(ChannelFrame(payload=payload, should_close=False))
        except BaseException:
            # The broker did not receive it, and continues counting after the last that it did.
            channel.delivery_tag = first - 1
            channel.confirmations.withdraw(batch)
            batch.complete.cancel()
            raise
        return batch


def _reason(complete: "asyncio.Future[None]") -> BaseException:
    """Return why confirms are missing."""
    if complete.done() and not complete.cancelled():
        return complete.exception() or TimeoutError()
    return TimeoutError()


async def incompatibility(channel: Any) -> str | None:
    """
    Return an internal of aiormq that `publish_batch` needs and *channel* lacks, or None.

    *channel* must be new; nothing is sent. A compatible channel keeps its confirms as
    `unconfirmed` does afterwards.
    """
    before = dict(vars(channel))
    try:
        missing = await _first_incompatibility(channel)
    except Exception as error:  # noqa: BLE001 - another version of aiormq may raise any error
        missing = type(error).__name__
    if missing is not None:
        vars(channel).pop("_on_confirm_frame", None)
        vars(channel).update(before)
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
    """Return and confirm publishes that were never sent; check that each gets its confirm."""
    take_over(channel)
    loop = asyncio.get_running_loop()
    batch = Batch(1, ["1", "2", "3", "4"], complete=loop.create_future())
    other = channel.confirmations[5] = loop.create_future()
    channel.confirmations.begin(batch)
    await _return(channel, "2")
    for frame in (Basic.Nack(3), Basic.Ack(2, multiple=True), Basic.Ack(5, multiple=True)):
        await channel._on_confirm_frame(frame)  # noqa: SLF001 - see above
    fine = other.done() and batch.complete.done() and not channel.confirmations
    errors = aiormq.exceptions
    match batch.confirms:
        case [Basic.Ack(), errors.PublishError(), errors.DeliveryError(), Basic.Ack()] if fine:
            return None
        case [_, confirm, _, _] if not isinstance(confirm, errors.PublishError):
            return "_on_return_frame"
        case _:
            return "_on_confirm_frame"


async def _return(channel: Any, message_id: str) -> None:
    """Let *channel* handle a return of this message, in place of one that the broker sends."""
    properties = Basic.Properties(message_id=message_id)
    frame, header = Basic.Return(312, "NO_ROUTE"), ContentHeader(0, 0, properties)

    async def read_header() -> ContentHeader:
        return header

    own = vars(channel)
    own["_Channel__get_content_header"] = read_header
    try:
        async with asyncio.timeout(SELF_TEST_SECONDS):
            await channel._on_return_frame(frame)  # noqa: SLF001 - see above
    finally:
        del own["_Channel__get_content_header"]
