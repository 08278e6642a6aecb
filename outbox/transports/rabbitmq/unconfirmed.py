"""
The publishes on one channel that have no confirm yet.

aiormq keeps an object for each delivery tag and an entry for each message id. A batch has a range
of delivery tags, and the broker confirms most of them together: here a batch is one object, and a
confirm with `multiple` is one step. `take_over` puts these objects where aiormq keeps its own. The
publishes of other callers stay with aiormq.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import aiormq
from pamqp.commands import Basic

from outbox.transports.rabbitmq.confirms import Confirm

ConfirmFrame: TypeAlias = Basic.Ack | Basic.Nack


class Batch:
    """
    The confirms of messages with these *ids*, whose delivery tags begin with *first*.

    A confirm that comes after the deadline of the batch is accepted, and changes nothing: aiormq
    would log a returned message that it cannot match, including its body.

    Args:
        complete: Done after the last confirm; rejected when no further confirm can come.

    """

    __slots__ = ("_ids", "_up_to", "complete", "confirms", "first", "missing")

    def __init__(self, first: int, ids: Sequence[str], *, complete: Any) -> None:
        self.first = first
        self.complete = complete
        self.confirms: list[Confirm] = [None] * len(ids)
        self.missing = len(ids)
        self._ids = ids
        # All messages before this position have their confirm.
        self._up_to = 0

    @property
    def last(self) -> int:
        """The delivery tag of the last message."""
        return self.first + len(self._ids) - 1

    def has(self, tag: int) -> bool:
        """Whether *tag* belongs to a message of this batch."""
        return self.first <= tag <= self.last

    def tag_of(self, message_id: str) -> int | None:
        """The delivery tag of the message with this id, if it is in this batch and unconfirmed."""
        try:
            position = self._ids.index(message_id)
        except ValueError:
            return None
        return self.first + position if self.confirms[position] is None else None

    def missing_up_to(self, tag: int) -> int:
        """How many messages with delivery tags up to *tag* have no confirm."""
        return sum(confirm is None for confirm in self.confirms[: max(tag - self.first + 1, 0)])

    def confirm(self, tag: int, confirm: Confirm) -> None:
        """The message with *tag* gets *confirm*, unless it has one: an ack follows each return."""
        position = tag - self.first
        if self.confirms[position] is None:
            self.confirms[position] = confirm
            self._found(1)

    def confirm_up_to(self, tag: int, confirm: Confirm) -> None:
        """All messages with delivery tags up to *tag* that have no confirm get this one."""
        start, stop = self._up_to, min(tag - self.first + 1, len(self._ids))
        if start < stop:
            before = self.confirms[start:stop]
            self.confirms[start:stop] = [confirm if had is None else had for had in before]
            self._up_to = stop
            self._found(sum(had is None for had in before))

    def _found(self, count: int) -> None:
        self.missing -= count
        if not self.missing and not self.complete.done():
            self.complete.set_result(None)


class _Returned:
    """What aiormq takes for the future of a message that the broker returned."""

    def __init__(self, batch: Batch, tag: int) -> None:
        self._batch = batch
        self._tag = tag

    def set_exception(self, error: BaseException) -> None:
        self._batch.confirm(self._tag, error)


class Unconfirmed(dict[int, Any]):
    """
    The batches without all their confirms, in the place of aiormq's `confirmations`.

    As a dictionary it has the futures of other callers by delivery tag, as aiormq needs them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._batches: list[Batch] = []

    def __len__(self) -> int:
        return super().__len__() + sum(batch.missing for batch in self._batches)

    def begin(self, batch: Batch) -> None:
        """Expect the confirms of *batch*, whose delivery tags are the highest so far."""
        self._batches = [*(before for before in self._batches if before.missing), batch]

    def withdraw(self, batch: Batch) -> None:
        """Expect no confirm of *batch*: the broker has not received it."""
        self._batches.remove(batch)

    def missing_up_to(self, tag: int) -> int:
        """How many delivery tags up to *tag* have no confirm."""
        others = sum(other <= tag for other in self)
        return others + sum(batch.missing_up_to(tag) for batch in self._batches)

    def tag_of(self, message_id: str) -> int | None:
        """The delivery tag of an unconfirmed message of a batch; these have distinct ids."""
        tags = (batch.tag_of(message_id) for batch in self._batches)
        return next((tag for tag in tags if tag is not None), None)

    def confirm(self, frame: ConfirmFrame) -> list[int]:
        """Give *frame* to the batches that it is about; returns the delivery tags of others."""
        last, confirm = frame.delivery_tag or 0, _confirm_of(frame)
        if frame.multiple:
            for batch in self._batches:
                batch.confirm_up_to(last, confirm)
            return [tag for tag in self if tag <= last]
        if (own := self._batch_of(last)) is None:
            return [last]
        own.confirm(last, confirm)
        return []

    def pop(self, tag: int, *default: Any) -> Any:
        """What gets the confirm of *tag*; aiormq asks for it when a message is returned."""
        if (batch := self._batch_of(tag)) is not None:
            return _Returned(batch, tag)
        return super().pop(tag, *default)

    def __setitem__(self, tag: int, future: Any) -> None:
        # For a returned message aiormq stores that its ack is to be ignored; a batch knows.
        if self._batch_of(tag) is None:
            super().__setitem__(tag, future)

    def _batch_of(self, tag: int) -> Batch | None:
        found = (batch for batch in self._batches if batch.missing and batch.has(tag))
        return next(found, None)


def _confirm_of(frame: ConfirmFrame) -> Confirm:
    if isinstance(frame, Basic.Ack):
        return frame
    return aiormq.exceptions.DeliveryError(None, frame)


class MessageIds(dict[str, int]):
    """
    The delivery tags of messages in flight, in the place of `message_id_delivery_tag`.

    As a dictionary it has those of other callers.
    """

    def __init__(self, unconfirmed: Unconfirmed) -> None:
        super().__init__()
        self._unconfirmed = unconfirmed

    def get(self, message_id: str, default: Any = None) -> Any:
        """The delivery tag of a returned message, or *default*."""
        tag = self._unconfirmed.tag_of(message_id)
        return super().get(message_id, default) if tag is None else tag


def take_over(channel: Any) -> None:
    """
    Make aiormq's *channel*, on which nothing is in flight, keep its confirms here.

    Each confirm is processed in one step, even if many tags are outstanding: for one with
    `multiple`, aiormq scans all of them, and needs a turn of the event loop for each.
    """
    unconfirmed = Unconfirmed()

    async def on_confirm_frame(frame: ConfirmFrame) -> None:
        for tag in unconfirmed.confirm(frame):
            channel._confirm_delivery(tag, frame)  # noqa: SLF001 - see `publish_batch`

    channel.confirmations = unconfirmed
    channel.message_id_delivery_tag = MessageIds(unconfirmed)
    channel._on_confirm_frame = on_confirm_frame  # noqa: SLF001
