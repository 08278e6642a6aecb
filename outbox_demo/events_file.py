"""
The events of a run, checked and written to a file once, from which the producer reads them.

So a bad line is found before the first event is committed, not when half of them are.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from outbox import HEALTH_DATA_UPLOADED, Event
from outbox_demo.ndjson import line_of
from outbox_demo.sources import BadSource

FILE_NAME = "events.ndjson"


@dataclass(frozen=True, slots=True)
class Expected:
    """
    The numbers that a run must reach.

    Args:
        events: Events to commit.
        effects: Effects to apply; fewer than events if some events repeat an idempotency key.
        types: Event types other than uploads.

    """

    events: int
    effects: int
    types: tuple[str, ...]


def write(events: Iterable[Event], path: Path) -> Expected:
    """
    Write *events* to *path*, which only the user can read.

    Raises BadSource if an event is invalid, or if there are none.
    """
    count, keys, types = 0, set[str](), set[str]()
    path.touch(mode=0o600)
    with path.open("w", encoding="utf-8") as file:
        for event in events:
            file.write(line_of(event) + "\n")
            count += 1
            keys.add(event.idempotency_key)
            types.add(event.type)
    if not count:
        raise BadSource("the source has no events")
    return Expected(count, len(keys), tuple(sorted(types - {HEALTH_DATA_UPLOADED})))
