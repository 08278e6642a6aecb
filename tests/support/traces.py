"""
The spans of a test: an SDK of OpenTelemetry that keeps them in memory, as a program sets it up.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, StaticSampler


class Traces:
    """The spans that have ended, in the order in which they began; `sampler` chooses them."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("application")

    def __iter__(self) -> Iterator[ReadableSpan]:
        spans = self._exporter.get_finished_spans()
        return iter(sorted(spans, key=lambda span: span.start_time or 0))

    def named(self, name: str) -> list[ReadableSpan]:
        """The spans of this *name*, or of an operation of this name on any destination."""
        return [span for span in self if name in {span.name, span.name.partition(" ")[0]}]

    def one(self, name: str) -> ReadableSpan:
        """The only one."""
        [span] = self.named(name)
        return span

    def path(self, span: ReadableSpan) -> list[str]:
        """The operations from the first span of the trace of *span* down to it."""
        ids = {context_of(each).span_id: each for each in self}
        parent = None if span.parent is None else ids[span.parent.span_id]
        name = span.name.partition(" ")[0]
        return [name] if parent is None else [*self.path(parent), name]

    def linked(self, span: ReadableSpan) -> list[ReadableSpan]:
        """The spans to which *span* links."""
        ids = {context_of(each).span_id: each for each in self}
        return [ids[link.context.span_id] for link in span.links]

    def text(self) -> str:
        """All that an exporter is given."""
        return "\n".join(span.to_json() for span in self)


def context_of(span: ReadableSpan) -> trace.SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


def attributes_of(span: ReadableSpan) -> Mapping[str, Any]:
    return dict(span.attributes or {})


def only_of_sampled_parents() -> Sampler:
    """Records nothing but children of spans that are recorded."""
    return ParentBased(StaticSampler(Decision.DROP))


def never() -> Sampler:
    return StaticSampler(Decision.DROP)


@contextmanager
def traced(traces: Traces) -> Iterator[Traces]:
    """In the block the program has set up the SDK; in fact that can be done once in a process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "get_tracer_provider", lambda: traces.provider)
        yield traces
