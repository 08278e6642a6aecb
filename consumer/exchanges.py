"""
The exchanges of a consumer and of MQ_EXCHANGES together, and what contradicts in them: pure.
"""

from collections.abc import Iterator

from consumer.consumer import Consumer
from consumer.settings import ConsumerSettings
from outbox.errors import ConfigurationError
from outbox.exchange import Binding, Exchange
from outbox.exchange_rules import binding_problems, kinds_of, together
from outbox.validation import is_allowed_header


def declared(consumer: Consumer, settings: ConsumerSettings) -> list[Exchange]:
    """
    The exchanges that the process of *consumer* declares besides the configured two.

    Raises ConfigurationError if those of *consumer* contradict MQ_EXCHANGES.
    """
    return together(
        f"consumer {consumer.name}",
        consumer.exchanges,
        settings.exchanges,
        main_exchange=settings.main_exchange,
        dlx_exchange=settings.dlx_exchange,
    )


def problems(consumer: Consumer, settings: ConsumerSettings) -> Iterator[str]:
    """Yield a line for each exchange or binding of *consumer* that cannot be as it says."""
    where = f"consumer {consumer.name}"
    try:
        exchanges = declared(consumer, settings)
    except ConfigurationError as error:
        yield str(error)
        return
    kinds = kinds_of(exchanges, main_exchange=settings.main_exchange)
    yield from binding_problems(where, consumer.bindings, kinds)
    for each in consumer.bindings:
        if isinstance(each, Binding):
            yield from _unknown_headers(where, each, settings)


def _unknown_headers(where: str, binding: Binding, settings: ConsumerSettings) -> Iterator[str]:
    for name in binding.headers or ():
        if not (is_allowed_header(name) or name in settings.allowed_headers):
            yield (
                f"{where}: binding to exchange {binding.exchange}: no event can have the header"
                f" {name}: add it to MQ_ALLOWED_HEADERS"
            )
