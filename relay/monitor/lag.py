"""
Where the time of an event goes, from the figures of all processes: pure.

    commit ──▶ claim ──▶ confirm ──▶ deliver ──▶ effect
    └── measured by relays ──┘
    └──────── measured by consumers ────┘
                                     └─ by consumers ─┘

No process sees both the confirm and the delivery of an event. So the mean of that stage is
derived: the mean way to the delivery, less the mean way to the confirm. It has no quantiles.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from outbox.runtime.distribution import Distribution, together


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """
    A part of the way of an event, over the last minute of all running processes.

    Args:
        stage: Its two ends, as in `commit to claim`.
        derived: Whether it was not measured, but follows from the means of others.
        events: How many events were measured; None for a derived stage.
        median: Half of the events took no longer; likewise *p99* for 99 %.

    """

    stage: str
    derived: bool
    events: int | None
    mean: timedelta | None
    median: timedelta | None
    p99: timedelta | None


def stages(reported: Iterable[Mapping[str, Distribution]]) -> list[Stage]:
    """Return the stages from what each running process *reported*."""
    found = list(reported)

    def measured(name: str) -> Distribution | None:
        return together(lags[name] for lags in found if name in lags)

    relay, delivery = measured("commit_to_confirm"), measured("record_to_delivery")
    effect = measured("delivery_to_effect")
    broker = None
    if relay is not None and delivery is not None and relay.count and delivery.count:
        broker = max((delivery.mean or 0.0) - (relay.mean or 0.0), 0.0)
    whole = None
    if delivery is not None and effect is not None and delivery.count and effect.count:
        whole = (delivery.mean or 0.0) + (effect.mean or 0.0)
    return [
        _measured("commit to claim", measured("commit_to_claim")),
        _measured("claim to confirm", measured("claim_to_confirm")),
        _derived("confirm to deliver", broker),
        _measured("deliver to effect", effect),
        _derived("commit to effect", whole),
    ]


def _measured(stage: str, lag: Distribution | None) -> Stage:
    return Stage(
        stage=stage,
        derived=False,
        events=0 if lag is None else lag.count,
        mean=_time(None if lag is None else lag.mean),
        median=_time(None if lag is None else lag.quantile(0.5)),
        p99=_time(None if lag is None else lag.quantile(0.99)),
    )


def _derived(stage: str, mean: float | None) -> Stage:
    return Stage(stage=stage, derived=True, events=None, mean=_time(mean), median=None, p99=None)


def _time(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
