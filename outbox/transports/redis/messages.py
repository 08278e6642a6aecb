"""
Every call of a script, with its arguments and its answer as values.

Routes are decided here, from the declarations of one version, and the script refuses to store a
message if another version is declared: then they are read again. So a message that is confirmed
stands in every queue that was bound when it was stored.
"""

import secrets
from collections.abc import Collection, Sequence
from datetime import timedelta
from itertools import chain

from redis.asyncio import Redis

from outbox.errors import BrokerUnavailable, TopologyMismatch
from outbox.transports.base import Outcome, QueueDepth
from outbox.transports.redis import scripts
from outbox.transports.redis.declarations import Declarations
from outbox.transports.redis.entries import (
    Batch,
    Claimed,
    Overdue,
    Place,
    Word,
    batches,
    claimed_of,
    fields_of,
    outcome_of,
    overdue_of,
    words_of,
)
from outbox.transports.redis.script_functions import LEVELS, stream
from outbox.transports.redis.script_runner import ScriptRunner, milliseconds
from outbox.transports.stored_message import dead_letter_copy
from outbox.transports.topology import Topology
from outbox.wire.codec import WireMessage

_SWEEP_LIMIT = 100
_LEASED_AGAIN = timedelta(seconds=10)
_UNROUTABLE_AGAIN = timedelta(minutes=1)


class Messages:
    """
    The queues of the server that *client* connects to.

    A publish is confirmed when that many *replicas* have it. Other scripts need no replica: the
    server sends all writes of a script at once, so a message is never without its copy, and what a
    failover undoes is delivered again.

    Every method raises BrokerUnavailable when the server is unavailable or refuses the work.
    """

    def __init__(self, client: Redis, *, replicas: int = 0) -> None:
        self._server = ScriptRunner(client, replicas=replicas)
        self._declarations: Declarations | None = None

    async def check_writable(self) -> None:
        """Raise BrokerUnavailable if the server takes no messages, or has too few replicas."""
        await self._server.check_writable()

    async def declarations(self) -> Declarations:
        """Return what is declared now."""
        self._declarations = Declarations.of(await self._server.run(scripts.TOPOLOGY))
        return self._declarations

    async def declare(self, topology: Topology) -> None:
        """Declare *topology*, or raise TopologyMismatch and declare nothing of it."""
        answer = scripts.STALE
        while answer == scripts.STALE:
            found = await self.declarations()
            if not (added := found.additions(topology)):
                return
            answer = await self._server.run(
                scripts.DECLARE, found.version, secrets.token_hex(8), *added
            )

    async def publish(self, messages: Sequence[WireMessage]) -> list[Outcome]:
        """
        Store each message in every queue that its exchange and routing key lead to.

        It stores them in several calls. After one that was lost, the rest is UNKNOWN as well, so
        this method alone raises no error.
        """
        outcomes: list[Outcome] = []
        try:
            for batch in batches(messages):
                outcomes += await self._publish(batch)
        except BrokerUnavailable:
            outcomes += [Outcome.UNKNOWN] * (len(messages) - len(outcomes))
        return outcomes

    async def join(self, queue: str, owner: str, *, lease: timedelta) -> None:
        """Add the consumer *owner* of *queue*; TopologyMismatch if there is no such queue."""
        answer = await self._server.run(scripts.JOIN, queue, owner, milliseconds(lease))
        if answer == scripts.MISSING:
            raise TopologyMismatch(f"queue {queue} does not exist")

    async def extend(self, owner: str, *, lease: timedelta) -> bool:
        """Extend the lease of *owner*; return whether it still had one."""
        return await self._server.is_done(scripts.EXTEND, owner, milliseconds(lease))

    async def claim(
        self, queue: str, owner: str, *, limit: int, lease: timedelta, first_tag: int
    ) -> Claimed | None:
        """
        Lease up to *limit* messages to *owner*, whose lease they extend; None if it has none.

        A consumer that is not the single active one gets none.
        """
        reply = await self._server.run(scripts.CLAIM, queue, owner, limit, milliseconds(lease))
        return (
            None if reply == scripts.LOST else claimed_of(reply, queue=queue, first_tag=first_tag)
        )

    async def wait(self, queue: str, last_ids: Sequence[bytes], *, longest: timedelta) -> None:
        """Return when an entry stands behind *last_ids*, at the latest after *longest*."""
        streams = [stream(queue, level) for level in LEVELS]
        await self._server.wait(dict(zip(streams, last_ids, strict=True)), longest=longest)

    async def ack(self, queue: str, owner: str, places: Collection[Place]) -> Outcome | None:
        """Delete the messages; None if *owner* no longer holds one of them."""
        done = await self._server.is_done(scripts.ACK, queue, owner, *chain.from_iterable(places))
        return Outcome.ACKED if done else None

    async def release(self, queue: str, owner: str, place: Place) -> Outcome | None:
        """Make the message ready again, in its old place; None if *owner* does not hold it."""
        done = await self._server.is_done(scripts.RELEASE, queue, owner, *place)
        return Outcome.ACKED if done else None

    async def replace(
        self, queue: str, owner: str, place: Place, copy: WireMessage
    ) -> Outcome | None:
        """Replace the message by *copy*; None if *owner* no longer holds it."""
        answer = await self._put(scripts.REPLACE, [queue, owner, *place], copy)
        if isinstance(answer, Outcome):
            return answer
        return Outcome.ACKED if answer == scripts.DONE else None

    async def give_back(self, queue: str, owner: str, *, keep: Collection[Place]) -> None:
        """Make the messages of *owner* ready again, but for *keep*; no delivery has failed."""
        await self._server.run(scripts.GIVE_BACK, queue, owner, *(place.text for place in keep))

    async def leave(self, queue: str, owner: str, *, failed: Collection[Place]) -> None:
        """Remove *owner*; all its messages are ready again, and deliveries of *failed* failed."""
        await self._server.run(scripts.LEAVE, queue, owner, *(place.text for place in failed))

    async def sweep(self) -> None:
        """Remove consumers whose lease has ended, and dead-letter what is due, in all queues."""
        reply = await self._server.run(scripts.OVERDUE, _SWEEP_LIMIT, milliseconds(_LEASED_AGAIN))
        for overdue in overdue_of(reply):
            await self._dead_letter(overdue)

    async def depth(self, queue: str) -> QueueDepth | None:
        """Return the depth of *queue*; None if it does not exist."""
        figures = await self.figures(queue)
        return None if figures is None else QueueDepth(figures[0], figures[2])

    async def figures(self, queue: str) -> tuple[int, int, int] | None:
        """Return the messages, those that are unsettled, and the consumers of *queue*."""
        reply = await self._server.run(scripts.DEPTH, queue)
        if reply == scripts.MISSING:
            return None
        messages, unsettled, consumers = reply
        return messages, unsettled, consumers

    async def _publish(self, batch: Batch) -> list[Outcome]:
        answer, outcomes = scripts.STALE, list[Outcome]()
        found = self._declarations or await self.declarations()
        while answer == scripts.STALE:
            words: list[Word] = []
            outcomes = []
            for message, fields in batch:
                targets = found.targets(message.exchange, message.routing_key)
                outcomes.append(outcome_of(fields, targets))
                if fields is not None and targets:
                    words += words_of(fields, targets)
            answer = await self._server.confirmed(scripts.PUBLISH, found.version, *words)
            if answer == scripts.STALE:
                found = await self.declarations()
        return outcomes

    async def _put(
        self, script: str, before: Sequence[Word], message: WireMessage
    ) -> bytes | Outcome:
        """
        Run *script* with the arguments *before*, and *message* with its queues behind them.

        Returns the answer of the script; or the outcome of a message that is not stored.
        """
        try:
            fields = fields_of(message)
        except (TypeError, ValueError):
            return Outcome.REJECTED
        found = self._declarations or await self.declarations()
        while True:
            targets = found.targets(message.exchange, message.routing_key)
            if targets:
                words = words_of(fields, targets)
                answer: bytes = await self._server.run(script, found.version, *before, *words)
                if answer != scripts.STALE:
                    return answer
            before_reading, found = found, await self.declarations()
            if not targets and found.version == before_reading.version:
                return Outcome.RETURNED

    async def _dead_letter(self, overdue: Overdue) -> None:
        """Dead-letter a message as its queue's arguments say; without any, drop it, as in AMQP."""
        found = self._declarations or await self.declarations()
        if overdue.queue not in found.queues:  # another process may have declared it since
            found = await self.declarations()
        arguments = found.queues.get(overdue.queue, {})
        place: list[Word] = [overdue.queue, *overdue.place]
        if "x-dead-letter-exchange" not in arguments:
            answer = await self._server.run(scripts.MOVE, found.version, *place)
            if answer == scripts.STALE:
                await self.declarations()
                await self._dead_letter(overdue)
            return
        limit = arguments.get("x-delivery-limit")
        is_over = limit is not None and overdue.failures > int(limit)
        moved: bytes | Outcome = Outcome.REJECTED
        if overdue.message is not None:
            reason = "delivery_limit" if is_over else "expired"
            copy = dead_letter_copy(overdue.message, overdue.queue, arguments, reason)
            moved = await self._put(scripts.MOVE, place, copy)
        if isinstance(moved, Outcome):
            # No queue takes it now: it stays, and can be delivered meanwhile.
            await self._server.run(scripts.POSTPONE, *place, milliseconds(_UNROUTABLE_AGAIN))
