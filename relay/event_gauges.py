"""
Gauges of the events in the outbox by state, with a bounded number of labels.
"""

from collections.abc import Sequence

from outbox.runtime.in_memory import Gauge
from relay.event_group import EventGroup, EventState, bounded, oldest_age

MOST_TYPES = 20
"""The most types that have a label of their own: those with most events in the outbox."""
NO_REASON = "none"


class EventGauges:
    """
    Shows groups of events in *events* (labels state, type, reason) and *age* (label state).

    Labels that no event has any more are removed; each state keeps its age, of 0 seconds.
    """

    def __init__(self, events: Gauge, age: Gauge) -> None:
        self._events = events
        self._age = age
        self._shown: set[tuple[str, str, str]] = set()

    def show(self, groups: Sequence[EventGroup]) -> None:
        """Show *groups*, and none of those that were shown before."""
        rows = {_labels(group): group.rows for group in bounded(groups, types=MOST_TYPES)}
        for labels in self._shown - rows.keys():
            self._events.remove(*labels)
        for labels, number in rows.items():
            self._events.labels(*labels).set(number)
        self._shown = set(rows)
        for state in EventState:
            self._age.labels(state.value).set(oldest_age(groups, state).total_seconds())


def _labels(group: EventGroup) -> tuple[str, str, str]:
    return group.state.value, group.type, group.reason or NO_REASON
