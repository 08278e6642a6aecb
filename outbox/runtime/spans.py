"""
Spans of relay and consumer: how they continue the traces of producers, and what they say.

OpenTelemetry is imported when a span is made, so only in a program that has imported it itself.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from yarl import URL

from outbox.database import errors
from outbox.runtime.loggable_ids import is_loggable
from outbox.tracing import TRACEPARENT, TRACESTATE, Attributes, end, of_outbox
from outbox.wire.encrypted import PrivateText

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span

_LONGEST_NAME = 255

MOST_LINKS = 128
"""The most links of a span; an SDK keeps as many unless it is configured otherwise."""

OTHER_ERROR = "_OTHER"
"""The error type of different errors at once, or of one that is not known."""

_SYSTEMS = {
    "amqp": ("rabbitmq", 5672),
    "amqps": ("rabbitmq", 5671),
    "redis": ("redis", 6379),
    "rediss": ("redis", 6379),
}
"""The system of a broker, and its default port, by the scheme of MQ_BROKER_URL."""


def of_brokers(urls: Sequence[URL]) -> Attributes:
    """The attributes of the broker at *urls*; with its address, if there is only one."""
    first = urls[0]
    if (found := _SYSTEMS.get(first.scheme)) is None:
        return of_outbox()
    system, default_port = found
    # A Sentinel or a node that is asked for the server is not the server.
    if len(urls) > 1 or not first.host or {"sentinel", "cluster"} & set(first.query):
        return {"messaging.system": system}
    port = first.port or default_port
    return {"messaging.system": system, "server.address": first.host, "server.port": port}


def of_message(
    identity: UUID | str | None, correlation_id: str | None, *, size: int | None = None
) -> Attributes:
    """
    The attributes of a message whose body has this *size*.

    Other publishers and users choose ids, so one is left out if it could name a person.
    """
    attributes: dict[str, str | int] = (
        {} if size is None else {"messaging.message.body.size": size}
    )
    if identity and is_loggable(identity):
        attributes["messaging.message.id"] = str(identity)
    if isinstance(correlation_id, PrivateText):
        correlation_id = correlation_id.digest
    if correlation_id and is_loggable(correlation_id):
        attributes["messaging.message.conversation_id"] = correlation_id
    return attributes


def is_sampled(headers: Mapping[str, Any]) -> bool | None:
    """Whether the producer's trace is recorded, by *headers* alone; None if they name no trace."""
    parent = headers.get(TRACEPARENT)
    if not isinstance(parent, str):
        return None
    try:
        return bool(int(parent[53:55], 16) & 1)
    except ValueError:
        return None


def link_to(headers: Mapping[str, Any]) -> "Link | None":
    """A link to the span in which the event with these *headers* was created."""
    from opentelemetry.trace import Link, get_current_span  # noqa: PLC0415

    created = get_current_span(_extracted(headers)).get_span_context()
    return Link(created) if created.is_valid else None


def links_to(headers: Iterable[Mapping[str, Any]]) -> "list[Link]":
    """Links to the spans in which the events with these *headers* were created."""
    return [link for each in headers if (link := link_to(each)) is not None]


def child_of(link: "Link | None") -> "Context":
    """The context for a child of the span of *link*; for the first span of a trace if None."""
    from opentelemetry.trace import (  # noqa: PLC0415
        INVALID_SPAN,
        NonRecordingSpan,
        set_span_in_context,
    )

    return set_span_in_context(INVALID_SPAN if link is None else NonRecordingSpan(link.context))


def _extracted(headers: Mapping[str, Any]) -> "Context":
    from opentelemetry.context import Context  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
        TraceContextTextMapPropagator,
    )

    # Other publishers may put any value there.
    carrier = {
        name: value
        for name in (TRACEPARENT, TRACESTATE)
        if isinstance(value := headers.get(name), str)
    }
    return TraceContextTextMapPropagator().extract(carrier, Context())


def failed(span: "Span", error_type: str) -> None:
    """Mark *span* as failed, without a text: exceptions may quote health data."""
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR))


def class_of(error: BaseException) -> str:
    """The name of the class of *error*, with its module."""
    kind = errors.class_of(error)
    name, module = kind.__qualname__, kind.__module__
    if not _is_dotted(name):
        name = kind.__name__
    return name if module == "builtins" or not _is_dotted(module) else f"{module}.{name}"


def _is_dotted(name: object) -> bool:
    """Whether *name* is one that Python gives; a program may put any text in its place."""
    if not isinstance(name, str) or len(name) > _LONGEST_NAME:
        return False
    return all(part.isidentifier() or part == "<locals>" for part in name.split("."))


@contextmanager
def ending(*spans: "Span") -> Iterator[None]:
    """End *spans* with the block; if it raises, they have failed."""
    try:
        yield
    except BaseException as error:
        for span in spans:
            failed(span, class_of(error))
        raise
    finally:
        for span in spans:
            end(span)
