"""
Traces of events in OpenTelemetry, from the span of a record on.

A trace context travels as `traceparent` and `tracestate`, two headers of the event, from the row
of the outbox to the handler. Baggage does not travel, as it may hold personal data. Spans have
ids, sizes, counts, codes and names of classes; never a body, a key, a routing key, a user id or
the text of an exception.

This module does not import OpenTelemetry until a program that has imported it has set up an SDK.
For all others `tracer_of_program` is None, which is one look-up for each call that records events.
Relay and consumer continue traces with `outbox.runtime.spans`.
"""

import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
"""The version of the semantic conventions that the spans follow."""

SCOPE = "outbox_relay"
"""The name of the instrumentation, and the prefix of attributes that no convention has."""

OUTBOX = "outbox"
"""The destination of an event that is recorded."""

Attributes: TypeAlias = Mapping[str, str | int | float | bool]

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
_MAX_TRACESTATE = 512
"""Characters; the W3C asks programs to propagate as many."""

_latest: tuple[object, "Tracer | None"] = (None, None)


def tracer_of_program() -> "Tracer | None":
    """The tracer of this project; None unless the program has set up an SDK of OpenTelemetry."""
    global _latest  # noqa: PLW0603 - a provider makes another tracer at each call
    trace = sys.modules.get("opentelemetry.trace")
    get_provider = getattr(trace, "get_tracer_provider", None)
    if trace is None or get_provider is None:  # not imported, or not to the end
        return None
    provider = get_provider()
    if isinstance(provider, trace.ProxyTracerProvider):
        return None
    known, made = _latest
    if made is None or known is not provider:
        made = provider.get_tracer(SCOPE, _version(), schema_url=SCHEMA_URL)
        _latest = provider, made
    return made


def _version() -> str | None:
    # It takes longer to import than all the rest.
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return version("outbox-relay")
    except PackageNotFoundError:  # copied into another program, which has to record its events
        return None


def operation(name: str, *, kind: str, of: str) -> dict[str, str | int | float | bool]:
    """The attributes of the operation *name*, of a *kind* of the conventions, on *of*."""
    return {
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.destination.name": of,
    }


def of_outbox() -> Attributes:
    """The attributes of a system that no convention names: the outbox, or the embedded broker."""
    return {"messaging.system": SCOPE}


def begun(tracer: "Tracer", name: str, **arguments: Any) -> "Span":
    """
    Begin a span; if a sampler or a processor of the program raises an error, it is an invalid one.

    The API of OpenTelemetry raises none, but its SDK lets those of a program through. A batch
    whose outcomes are lost to one would be published again and again.
    """
    from opentelemetry.trace import INVALID_SPAN  # noqa: PLC0415

    try:
        return tracer.start_span(name, **arguments)
    except Exception:  # noqa: BLE001 - the program's code
        return INVALID_SPAN


def end(span: "Span") -> None:
    """End *span*; an error of a processor of the program is ignored, see `begun`."""
    with suppress(Exception):
        span.end()


def recorded(row: dict[str, Any], tracer: "Tracer") -> dict[str, Any]:
    """
    Return *row* of the outbox, with the context of a span of its own in the headers.

    A context that the producer gave the event stays, and then there is no span.
    """
    from opentelemetry.trace import SpanKind  # noqa: PLC0415

    headers = row["headers"]
    if TRACEPARENT in headers:
        return row
    span = begun(
        tracer,
        f"create {OUTBOX}",
        kind=SpanKind.PRODUCER,
        attributes={
            **of_outbox(),
            **operation("create", kind="create", of=OUTBOX),
            "messaging.message.id": str(row["event_id"]),
            "messaging.message.body.size": len(row["body"]),
            f"{SCOPE}.event.type": row["type"],
        },
    )
    end(span)
    return {**row, "headers": {**headers, **_headers_of(span)}}


def _headers_of(span: "Span") -> dict[str, str]:
    """The headers with the context of *span*, sampled or not; none if it has no context."""
    context = span.get_span_context()
    if not context.is_valid:
        return {}
    traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    state = context.trace_state.to_header() if context.trace_state else ""
    if not state or len(state) > _MAX_TRACESTATE or not (state.isascii() and state.isprintable()):
        return {TRACEPARENT: traceparent}
    return {TRACEPARENT: traceparent, TRACESTATE: state}
