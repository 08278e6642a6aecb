"""
The functions of a consumer as its process calls them: with resources and middleware.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from consumer.consumer import Consumer
from consumer.handler import Handler
from consumer.middleware import Function


@dataclass(frozen=True, slots=True)
class Bound:
    """The handlers of a consumer by event type, and its hooks, with their resources."""

    handlers: Mapping[str, Handler]
    on_failure: Sequence[Function] = ()
    on_dead_letter: Sequence[Function] = ()


def bind(consumer: Consumer, value: object = None) -> Bound:
    """The functions of *consumer*, with the resources in the *value* of its lifespan."""
    middleware = [each.bound(value) for each in consumer.middleware]
    return Bound(
        {name: each.bound(middleware, value) for name, each in consumer.handlers.items()},
        [each.bound(value) for each in consumer.failure_hooks],
        [each.bound(value) for each in consumer.dead_letter_hooks],
    )
