from datetime import timedelta

from prometheus_client import CollectorRegistry

from relay.event_gauges import MOST_TYPES
from relay.event_group import EventGroup, EventState
from relay.storage.base import Backlog
from relay.telemetry import Telemetry

HOUR = timedelta(hours=1)


def a_group(name: str, rows: int, state: EventState = EventState.READY) -> EventGroup:
    return EventGroup(state, name, None, rows, exact=True, attempts=0, oldest_age=HOUR)


def shown(registry: CollectorRegistry) -> dict[tuple[str, str, str], float]:
    """The numbers of events by state, type and reason."""
    return {
        (sample.labels["state"], sample.labels["type"], sample.labels["reason"]): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "mq_outbox_events"
    }


def test_a_state_that_no_event_has_any_more_leaves_the_metrics():
    registry = CollectorRegistry()
    telemetry = Telemetry(registry, exchange="x")

    def age(state: str) -> float | None:
        return registry.get_sample_value("mq_outbox_state_oldest_age_seconds", {"state": state})

    telemetry.sampled(
        Backlog(
            5,
            HOUR,
            events=[
                a_group("a", 2),
                EventGroup(EventState.REFUSED, "a", "refused", 3, True, 7, 2 * HOUR),
            ],
        )
    )
    assert shown(registry) == {("ready", "a", "none"): 2, ("refused", "a", "refused"): 3}
    assert (age("ready"), age("refused"), age("blocked")) == (3_600, 7_200, 0)

    telemetry.sampled(Backlog(1, HOUR, events=[a_group("a", 1)]))
    assert shown(registry) == {("ready", "a", "none"): 1}
    assert age("refused") == 0


def test_the_labels_are_bounded_whatever_the_table_holds():
    registry = CollectorRegistry()
    telemetry = Telemetry(registry, exchange="x")

    for round_ in range(3):
        many = [a_group(f"t.{round_}.{n}", n) for n in range(1, 200)]
        telemetry.sampled(Backlog(0, HOUR, events=[*many, a_group("Jane Doe", 1)]))

    assert len(shown(registry)) == MOST_TYPES + 1
    assert shown(registry)["ready", "other", "none"] == sum(range(180)) + 1
