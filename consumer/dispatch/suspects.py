"""
Messages that may end their process: pure, with the time as an argument.

A message is a suspect once two processes have begun it as a redelivery and ended before they had
settled it. Each may have ended for another reason: an operator's SIGKILL, a lack of memory, or a
neighbour that was handled at the same time. So a suspect

- is held back for a time that doubles with each strike, while the other messages flow, and
- is then handled alone, with no other handler of the dispatcher in flight.

A further strike is therefore evidence: the process lived for that time without the message, and
ended with it. Processes that end every few seconds for another reason end before a suspect is
begun, so it never reaches the limit. The time begins when the message first comes to the process,
since connections may be lost more often.

Suspects get at most half of the time: after one was handled, the others have as long as it took.
"""

from heapq import heappush

from consumer.execution.delivery_batch import QueuedDelivery
from consumer.storage.begun import identity_of

SUSPECT_FROM = 2
"""The strikes of a suspect. One neighbour in a batch, or one crash, is no reason to slow down."""

_FIRST_SECONDS = 1.0
_LAST_SECONDS = 10.0
"""The least time before the last strike, however low the limit."""
_LONGEST_SECONDS = 256.0
"""With the time that handlers take, it has to stay below the broker's consumer timeout."""
_REMEMBERED_SECONDS = 3_600.0
"""How long a message that another process may have settled is remembered."""


def hold_seconds(strikes: int, limit: int) -> float:
    """How long a message with *strikes* is held back, if it is given up at *limit* strikes."""
    tries_left = max(limit - 1 - strikes, 0)
    held = max(
        _FIRST_SECONDS * 2.0 ** min(strikes - SUSPECT_FROM, 16),
        _LAST_SECONDS / 2.0 ** min(tries_left, 16),
    )
    return min(held, _LONGEST_SECONDS)


def least_limit(limit: int) -> int:
    """*limit*, or 3 if it is lower: a strike before a message is a suspect is no evidence."""
    return max(limit, SUSPECT_FROM + 1)


class Suspects:
    """
    The suspects that wait in this process.

    *limit* is the number of strikes at which a message is given up; see `least_limit`.
    """

    def __init__(self, limit: int) -> None:
        self.limit = least_limit(limit)
        self.held: list[tuple[float, QueuedDelivery]] = []
        self.is_running = False
        # When the messages of suspects first came to this process.
        self._since: dict[str, float] = {}
        self._began = 0.0
        self._others_until = 0.0

    def includes(self, queued: QueuedDelivery) -> bool:
        """Whether *queued* has to be held back; one at the limit is given up instead."""
        return SUSPECT_FROM <= queued.strikes < self.limit

    def hold(self, queued: QueuedDelivery) -> None:
        """Hold *queued* back, from the first arrival of its message in this process on."""
        since = queued.since
        if (message := identity_of(queued.delivery)) is not None:
            self._since = {
                each: at for each, at in self._since.items() if since - at < _REMEMBERED_SECONDS
            }
            since = self._since.setdefault(message, since)
        until = since + hold_seconds(queued.strikes, self.limit)
        heappush(self.held, (until, queued))

    def due(self, now: float, *, others_wait: bool) -> list[QueuedDelivery]:
        """Those that may be handled now; none while *others_wait* and have the next turn."""
        if others_wait and now < self._others_until:
            return []
        return [queued for until, queued in sorted(self.held) if until <= now]

    def next_at(self, *, others_wait: bool) -> float | None:
        """When `due` may return another one."""
        if not self.held:
            return None
        return max(self.held[0][0], self._others_until if others_wait else 0.0)

    def began(self, queued: QueuedDelivery, now: float) -> None:
        """Record that *queued* is being handled."""
        self.held = sorted(each for each in self.held if each[1] is not queued)
        self._since.pop(identity_of(queued.delivery) or "", None)
        self.is_running, self._began = True, now

    def ended(self, now: float) -> None:
        """Record that the one in flight has ended."""
        self.is_running, self._others_until = False, now + (now - self._began)

    def take(self, since: float) -> list[QueuedDelivery]:
        """Remove and return those that arrived before *since*."""
        found = [queued for _, queued in self.held if queued.since < since]
        self.held = sorted(each for each in self.held if each[1].since >= since)
        return found
