"""
Traces: what a producer records, what relay and consumer make of it, and what none of them says.
"""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import SpanKind
from opentelemetry.trace.status import StatusCode
from sqlalchemy.orm import Session
from yarl import URL

import outbox
from consumer.message_copies import renewed_copy, replay_copy, requeue_copy, retry_copy
from outbox.runtime import spans
from outbox.tables import metadata
from outbox.tables import outbox as outbox_table
from outbox.tracing import tracer_of_program
from outbox.transports.base import Outcome
from outbox.wire.codec import WireMessage
from relay.row import Row
from relay.tracing import SettledEvents, TracedPublisher
from relay.verdict import DeadLetter, Delete, Leave, Retry
from tests.support.builders import LEAK_MARKER, TRACEPARENT, an_event, on_the_wire
from tests.support.pages import REPOSITORY
from tests.support.traces import (
    Traces,
    attributes_of,
    context_of,
    never,
    only_of_sampled_parents,
    traced,
)

UNSAMPLED = f"{TRACEPARENT[:-2]}00"
PRODUCER = """
import sys
import sqlalchemy as sa, outbox
from sqlalchemy.orm import Session

def record():
    with Session(engine) as session:
        outbox.add(session, outbox.Event("a.b", 1))
        session.execute(outbox.insert(outbox.Event("a.b", 1)))
        session.flush()
        print(*session.scalars(sa.select(outbox.metadata.tables["outbox"].c.headers)))
        print([name for name in sys.modules if name.startswith("opentelemetry")])

engine = sa.create_engine("sqlite://")
outbox.metadata.create_all(engine)
record()
import opentelemetry.trace
record()
"""


@pytest.fixture
def traces() -> Iterator[Traces]:
    with traced(Traces()) as set_up:
        yield set_up


@pytest.fixture
def database() -> Iterator[sa.Engine]:
    engine = sa.create_engine("sqlite://")
    metadata.create_all(engine)
    yield engine
    engine.dispose()


def headers_in(session: Session) -> list[dict[str, str]]:
    return list(session.scalars(sa.select(outbox_table.c.headers).order_by(outbox_table.c.id)))


def traceparent_of(span: Any) -> str:
    context = context_of(span)
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def test_a_recorded_event_carries_the_context_of_a_span_of_its_own(traces, database):
    event = an_event(payload={"note": LEAK_MARKER}, routing_key=LEAK_MARKER)
    with Session(database) as session, traces.tracer.start_as_current_span("request"):
        outbox.add(session, event, an_event(headers={"source": "ward"}))
        session.execute(outbox.insert(an_event()))
        session.flush()
        recorded = headers_in(session)

    created = traces.named("create outbox")
    assert sorted(each["traceparent"] for each in recorded) == sorted(map(traceparent_of, created))
    assert [each.get("source") for each in recorded].count("ward") == 1
    assert all(traces.path(span) == ["request", "create"] for span in created)
    first = created[0]
    assert first.kind is SpanKind.PRODUCER
    assert first.instrumentation_scope is not None
    assert first.instrumentation_scope.schema_url == "https://opentelemetry.io/schemas/1.44.0"
    assert attributes_of(first) == {
        "messaging.system": "outbox_relay",
        "messaging.operation.name": "create",
        "messaging.operation.type": "create",
        "messaging.destination.name": "outbox",
        "messaging.message.id": str(event.id),
        "messaging.message.body.size": len(event.body),
        "outbox_relay.event.type": "test.happened",
    }
    assert LEAK_MARKER not in traces.text()
    assert event.headers == {}


def test_the_context_that_a_producer_gives_its_event_stays(traces, database):
    with Session(database) as session, traces.tracer.start_as_current_span("request"):
        outbox.add(session, an_event(headers={"traceparent": TRACEPARENT}))
        session.flush()

        assert headers_in(session) == [{"traceparent": TRACEPARENT}]
    assert [span.name for span in traces] == ["request"]


def test_the_decision_not_to_record_a_trace_travels_with_the_event(database):
    with traced(Traces(never())) as traces, Session(database) as session:
        outbox.add(session, an_event())
        session.flush()
        [headers] = headers_in(session)

    assert int(headers["traceparent"][-2:], 16) & trace.TraceFlags.SAMPLED == 0
    assert list(traces) == []


@pytest.mark.parametrize(("members", "kept"), [(1, True), (3, False)])
def test_a_trace_state_that_is_too_long_is_left_out(traces, database, members, kept):
    state = trace.TraceState([(f"vendor{number}", "x" * 200) for number in range(members)])
    sampled = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    parent = trace.SpanContext(1, 2, is_remote=True, trace_flags=sampled, trace_state=state)
    with Session(database) as session, trace.use_span(trace.NonRecordingSpan(parent)):
        outbox.add(session, an_event())
        session.flush()
        [headers] = headers_in(session)

    assert headers["traceparent"][3:35] == f"{1:032x}"
    assert headers.get("tracestate") == (state.to_header() if kept else None)


def test_a_producer_imports_no_opentelemetry_and_records_without_an_sdk():
    done = subprocess.run(
        [sys.executable, "-c", PRODUCER],
        cwd=REPOSITORY, check=True, capture_output=True, text=True,
    )  # fmt: skip

    headers, imported, headers_then, imported_then = done.stdout.splitlines()
    assert headers == headers_then == "{} {}"
    assert imported == "[]"
    assert "opentelemetry.sdk" not in imported_then


def test_a_program_without_the_api_is_not_traced(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)

    assert tracer_of_program() is None


class Broker:
    """Answers publishes with *outcomes*, in turn."""

    def __init__(self, *outcomes: Outcome) -> None:
        self._outcomes = outcomes

    async def ready(self) -> None: ...

    async def publish(self, messages: Any, *, within: timedelta) -> list[Outcome]:
        assert within
        if not self._outcomes:
            raise OSError(LEAK_MARKER)
        return [self._outcomes[at % len(self._outcomes)] for at in range(len(messages))]


def a_message(traceparent: str | None = TRACEPARENT, **changes: Any) -> WireMessage:
    headers = {} if traceparent is None else {"traceparent": traceparent}
    return on_the_wire(an_event(headers=headers, **changes), exchange="main")


async def published(traces: Traces, *messages: WireMessage, outcomes=(Outcome.ACKED,)):
    broker = spans.of_brokers([URL("amqps://user:secret@mq.test")])
    publisher = TracedPublisher(Broker(*outcomes), traces.provider.get_tracer("t"), broker)
    await publisher.ready()
    return await publisher.publish(messages, within=timedelta(seconds=1))


async def test_a_batch_is_one_span_with_a_bounded_number_of_links(traces):
    messages = [a_message(f"00-{n:032x}-{n:016x}-01") for n in range(1, 201)]

    await published(traces, *messages, a_message(None), a_message(UNSAMPLED))

    span = traces.one("publish main")
    assert span.kind is SpanKind.CLIENT
    assert span.parent is None
    assert [link.context.trace_id for link in span.links] == list(range(1, 129))
    assert attributes_of(span) == {
        "messaging.system": "rabbitmq",
        "server.address": "mq.test",
        "server.port": 5671,
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "main",
        "messaging.batch.message_count": 202,
    }


async def test_the_span_of_one_message_is_in_the_trace_of_its_event(traces):
    message = a_message(correlation_id=str(uuid4()))

    await published(traces, message)

    span = traces.one("publish main")
    assert span.parent is not None
    assert span.parent.span_id == span.links[0].context.span_id == int(TRACEPARENT[36:52], 16)
    said = attributes_of(span)
    assert said["messaging.message.id"] == message.message_id
    assert said["messaging.message.conversation_id"] == message.correlation_id
    assert said["messaging.message.body.size"] == len(message.body)
    assert "messaging.batch.message_count" not in said


async def test_ids_that_may_name_a_person_are_in_no_span(traces):
    message = a_message(correlation_id=LEAK_MARKER)
    message.message_id = LEAK_MARKER

    await published(traces, message)

    assert len(list(traces)) == 1
    assert LEAK_MARKER not in traces.text()


async def test_messages_of_traces_that_are_not_recorded_get_no_span(traces):
    await published(traces, a_message(UNSAMPLED), a_message(UNSAMPLED))

    assert list(traces) == []


@pytest.mark.parametrize(
    ("outcomes", "error"),
    [
        ([Outcome.ACKED], None),
        ([Outcome.ACKED, Outcome.RETURNED], "unroutable"),
        ([Outcome.UNKNOWN, Outcome.RETURNED], "_OTHER"),
    ],
)
async def test_the_span_of_a_publish_has_the_reason_why_a_message_was_not_taken(
    traces, outcomes, error
):
    await published(traces, a_message(), a_message(), outcomes=outcomes)

    span = traces.one("publish main")
    assert attributes_of(span).get("error.type") == error
    assert span.status.status_code is (StatusCode.ERROR if error else StatusCode.UNSET)


async def test_a_publish_that_raises_ends_its_span_without_the_text_of_the_error(traces):
    with pytest.raises(OSError, match=LEAK_MARKER):
        await published(traces, a_message(), outcomes=())

    span = traces.one("publish main")
    assert attributes_of(span)["error.type"] == "OSError"
    assert LEAK_MARKER not in traces.text()


def a_row(headers: Any) -> Row:
    values = {"headers": headers, "event_id": uuid4(), "correlation_id": None, "attempts": 2}
    return Row(1, None, 2, datetime.now(UTC), values)


@pytest.mark.parametrize(
    ("headers", "spans_made"),
    [
        (f'{{"traceparent": "{TRACEPARENT}"}}', 2),
        ({"traceparent": TRACEPARENT}, 2),
        ({"traceparent": UNSAMPLED}, 0),
        ({"traceparent": 7}, 0),
        ({"traceparent": f"00-{'z' * 49}-01"}, 0),
        ("{}", 0),
        ("[]", 0),
        ("no JSON", 0),
        (None, 0),
    ],
)
def test_an_event_that_did_not_leave_the_outbox_has_a_span_in_its_trace(
    traces, headers, spans_made
):
    row = a_row(headers)
    settled = SettledEvents(traces.provider.get_tracer("t"))
    settled.trace(
        [
            Delete(row), Leave(row), Retry(row, timedelta(seconds=5), "unroutable"),
            DeadLetter(row, "rejected"),
        ]
    )  # fmt: skip

    assert [span.name for span in traces] == ["retry outbox", "dead_letter outbox"][:spans_made]
    for span, code in zip(traces, ["unroutable", "rejected"], strict=False):
        assert span.parent is not None
        assert attributes_of(span)["error.type"] == code
        assert attributes_of(span)["outbox_relay.attempt"] == 3
        assert attributes_of(span)["messaging.operation.type"] == "settle"


def test_a_copy_keeps_the_trace_of_its_message():
    message = a_message()
    copies = [
        retry_copy(message, queue="q", attempt=1), renewed_copy(message, queue="q"),
        requeue_copy(message, queue="q", requeues=1), replay_copy(message, queue="q", run=uuid4()),
    ]  # fmt: skip

    assert [copy.headers["traceparent"] for copy in copies] == [TRACEPARENT] * 4


@pytest.mark.parametrize(
    ("urls", "described"),
    [
        (["sqlite:///broker.db"], {"messaging.system": "outbox_relay"}),
        (["amqp://a.test", "amqp://b.test"], {"messaging.system": "rabbitmq"}),
        (
            ["amqp://u:p@a.test:5673/v"],
            {
                "messaging.system": "rabbitmq",
                "server.address": "a.test",
                "server.port": 5673,
            },
        ),
    ],
)
def test_spans_name_the_broker_and_no_credentials(urls, described):
    assert spans.of_brokers([URL(url) for url in urls]) == described


def test_a_sampler_that_follows_parents_records_what_the_producer_records():
    with traced(Traces(only_of_sampled_parents())) as traces:
        SettledEvents(traces.provider.get_tracer("t")).trace(
            [DeadLetter(a_row({"traceparent": TRACEPARENT}), "rejected")]
        )

    assert [span.name for span in traces] == ["dead_letter outbox"]


class Raises(SpanProcessor):
    """A processor of a program that raises when a span begins, or when it ends."""

    def __init__(self, *, at_start: bool) -> None:
        self._at_start = at_start

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        del span, parent_context
        if self._at_start:
            raise OSError(LEAK_MARKER)

    def on_end(self, span: Any) -> None:
        del span
        raise OSError(LEAK_MARKER)


@pytest.mark.parametrize("at_start", [True, False])
async def test_a_processor_that_raises_keeps_no_event_from_its_way(traces, database, at_start):
    """Else the relay would lose the confirms, and publish the same events again and again."""
    traces.provider.add_span_processor(Raises(at_start=at_start))
    message = on_the_wire(an_event(headers={"traceparent": TRACEPARENT}), exchange="main")

    with Session(database) as session:
        outbox.add(session, an_event())
        session.flush()
        assert len(headers_in(session)) == 1
    assert await published(traces, message) == [Outcome.ACKED]
