"""
The events that a run will tell, checked and written down once, for the producer to read.

It cannot happen then that a bad line is found when half of the file is committed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from outbox import HEALTH_DATA_UPLOADED, Event
from outbox_demo.lines import line_of
from outbox_demo.sources import BadSource

FILE_NAME = "events.ndjson"


@dataclass(frozen=True, slots=True)
class Intended:
    """
    What is going to happen.

    Args:
        events: To be committed.
        effects: To be applied; fewer than events if some announce the same upload again.
        types: Event types besides uploads.

    """

    events: int
    effects: int
    types: tuple[str, ...]


def write(events: Iterable[Event], path: Path) -> Intended:
    """
    Write *events* to *path*, where only the user can read them.

    Raises BadSource, also if there are none.
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
        raise BadSource("there are no events to tell")
    return Intended(count, len(keys), tuple(sorted(types - {HEALTH_DATA_UPLOADED})))
