"""
A trace from a producer to the handler of the last consumer, beside other instrumentations.
"""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.aio_pika import AioPikaInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind
from opentelemetry.trace.status import StatusCode
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession

import outbox
from consumer import Consumer, Message, OnLeaseExpired, Reject
from consumer.testing import running
from outbox import Event
from outbox.database.engine import create_engine
from relay.service import serve as serve_relay
from relay.settings import RelaySettings
from tests.support import effects, running_consumer
from tests.support.builders import LEAK_MARKER, TRACEPARENT, an_event
from tests.support.eventually import eventually
from tests.support.processes import ChildProcess
from tests.support.traces import Traces, attributes_of, traced

AGENT = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"
HOUR = timedelta(hours=1)
SECRET = {"note": LEAK_MARKER}


def name_of_current_span() -> str:
    span = trace.get_current_span()
    assert isinstance(span, ReadableSpan)
    return span.name


@pytest.fixture
def traces() -> Iterator[Traces]:
    with traced(Traces()) as set_up:
        yield set_up


@pytest.fixture
def instrumented(traces: Traces) -> Iterator[None]:
    """Have the client libraries instrumented too; one refuses this version of SQLAlchemy."""
    instrumentors = [AioPikaInstrumentor(), SQLAlchemyInstrumentor()]
    for each in instrumentors:
        each.instrument(tracer_provider=traces.provider, skip_dep_check=True)
    yield
    for each in instrumentors:
        each.uninstrument()


def a_secret_event(type_: str, **changes: Any) -> Event:
    """An event with health data wherever the producer may write a text."""
    return Event(
        type_,
        SECRET,
        **{
            "routing_key": f"{type_}.{LEAK_MARKER}",
            "idempotency_key": f"{LEAK_MARKER}{uuid4()}",
            "correlation_id": LEAK_MARKER,
            "headers": {"source": LEAK_MARKER},
            **changes,
        },
    )


async def test_one_trace_leads_from_a_request_to_the_last_handler(urls, traces, instrumented):
    """With both instrumentations, whose own spans are beside ours and in the same trace."""
    first, last = Consumer("first", bindings=["a.#"]), Consumer("last", bindings=["b.#"])

    @first.on("a.happened")
    async def take(message: Message[Any], session: AsyncSession) -> None:
        if message.attempt == 1:
            raise ValueError(LEAK_MARKER)
        with traces.tracer.start_as_current_span("work"):
            outbox.add(session, a_secret_event("b.happened"))

    @last.on("b.happened")
    async def reject(_message: Message[Any], _session: AsyncSession) -> None:
        raise Reject("not_ours")

    database, broker = urls
    async with running(first, last, database=database, broker=broker) as app:
        with traces.tracer.start_as_current_span("request"):
            await app.record(a_secret_event("a.happened", ordering_key=LEAK_MARKER))
        await app.drain(raises=False)
        await app.advance(HOUR, raises=False)

    theirs = [span for span in traces if span.name.partition(" ")[0] == "INSERT"]
    ours = [
        span
        for span in traces
        if span.instrumentation_scope is not None
        and span.instrumentation_scope.name == "outbox_relay"
    ]
    at_first, at_last = ["request", "create"], ["request", "create", "process", "handle", "work"]
    assert [traces.path(span) for span in ours] == [
        ["request", "create"],
        [*at_first, "publish"],
        [*at_first, "process"],
        [*at_first, "process", "handle"],
        [*at_first, "retry"],
        [*at_first, "process"],
        [*at_first, "process", "handle"],
        [*at_last, "create"],
        [*at_last, "create", "publish"],
        [*at_last, "create", "process"],
        [*at_last, "create", "process", "handle"],
        [*at_last, "create", "dead_letter"],
    ]
    assert all(
        [linked.name for linked in traces.linked(span)] == ["create outbox"]
        for span in ours
        if span.name.partition(" ")[0] not in {"create", "handle"}
    )
    failed, done, rejected = traces.named("process")
    assert {span.kind for span in (failed, done, rejected)} == {SpanKind.CONSUMER}
    assert [attributes_of(span)["outbox_relay.status"] for span in (failed, done, rejected)] == [
        "retry", "success", "failed",
    ]  # fmt: skip
    assert attributes_of(failed)["error.type"] == "ValueError"
    assert attributes_of(rejected)["error.type"] == "consumer.outcomes.Reject"
    assert [span.status.status_code for span in (failed, done)] == [
        StatusCode.ERROR, StatusCode.UNSET,
    ]  # fmt: skip
    assert attributes_of(traces.one("dead_letter"))["error.type"] == "rejected_by_handler"
    assert attributes_of(traces.one("retry"))["outbox_relay.retry.delay"] == 30.0
    assert ["request", "INSERT"] in [traces.path(span) for span in theirs]
    # The session of the handler writes the event when it commits.
    assert [*at_last[:3], "INSERT"] in [traces.path(span) for span in theirs]
    assert LEAK_MARKER not in traces.text()
    assert not [event for span in ours for event in span.events]


@pytest.mark.parametrize(
    "methods",
    [
        {"publish_method": "batch", "delivery_method": "frames"},
        {"publish_method": "gather", "delivery_method": "callback"},
    ],
    ids=["fast", "documented"],
)
async def test_relay_and_consumer_trace_batches_that_the_instrumentation_does_not_see(
    postgres_url, rabbitmq_url, traces, instrumented, methods
):
    etl = Consumer("etl", bindings=["#"])
    handled: list[str] = []

    @etl.on("one.by.one", batch_size=10)
    async def one(_message: Message[Any], _session: AsyncSession) -> None:
        handled.append(name_of_current_span())

    @etl.on_batch("all.at.once", size=10)
    async def several(messages: Sequence[Message[Any]], _session: AsyncSession) -> None:
        handled.extend([name_of_current_span()] * len(messages))

    relay_settings = RelaySettings(
        _env_file=None,
        database_url=postgres_url,
        broker_url=rabbitmq_url,
        enable_metrics=False,
        **methods,
    )
    stop = asyncio.Event()
    async with running_consumer.running(etl, postgres_url, rabbitmq_url, **methods) as engine:
        async with AsyncSession(engine) as session, session.begin():
            for type_ in ["one.by.one", "all.at.once"] * 3:
                outbox.add(session, a_secret_event(type_))
        relaying = asyncio.create_task(serve_relay(relay_settings, stop))
        await eventually(lambda: len(handled) == 6)
        stop.set()
        await relaying

    expected = [f"handle {type_}" for type_ in ("one.by.one", "all.at.once")] * 3
    assert sorted(handled) == sorted(expected)
    created = traces.named("create outbox")
    assert len(created) == len(linked_by(traces, "publish")) == len(linked_by(traces, "process"))
    for span in traces.named("process"):
        [*links] = traces.linked(span)
        # The broker may deliver a list in parts; of one message it is like that of others.
        count = attributes_of(span).get("messaging.batch.message_count", 1)
        assert len(links) == count
        assert (span.parent is None) is (count > 1)
        assert attributes_of(span)["outbox_relay.status"] == "success"
    assert {traces.path(span)[-2] for span in traces.named("handle")} == {"process"}
    # Theirs would be named after an exchange or a queue first.
    assert not [span for span in traces if span.name.endswith((" send", " receive"))]
    assert LEAK_MARKER not in traces.text()


def linked_by(traces: Traces, name: str) -> set[str]:
    """The events to whose creation spans of this *name* link."""
    linked = [each for span in traces.named(name) for each in traces.linked(span)]
    return {attributes_of(each)["messaging.message.id"] for each in linked}


async def test_parked_and_leased_messages_are_handled_in_the_traces_of_their_events(traces):
    ordered = Consumer("ordered", bindings=["a.#"], ordered=True)
    leasing = Consumer("leasing", bindings=["b.#"])
    inside: list[str] = []

    @ordered.on("a.happened")
    async def fail_twice(message: Message[Any], _session: AsyncSession) -> None:
        inside.append(name_of_current_span())
        if message.attempt < 3:
            raise ValueError(LEAK_MARKER)

    @leasing.on_leased(
        "b.happened", lease=timedelta(minutes=1), on_expired=OnLeaseExpired.DEAD_LETTER
    )
    async def call(_message: Message[Any]) -> None:
        inside.append(name_of_current_span())
        raise asyncio.CancelledError(LEAK_MARKER)

    async with running(ordered, leasing, settings={"max_retries": 2}) as app:
        await app.record(
            a_secret_event("a.happened", ordering_key="a"), a_secret_event("b.happened")
        )
        for _ in range(3):
            await app.advance(HOUR, raises=False)

    assert sorted(inside) == ["handle a.happened"] * 3 + ["handle b.happened"] * 3
    paths = {span.name.partition(" ")[0]: traces.path(span) for span in traces}
    assert paths["handle"] == ["create", "process", "handle"]
    assert paths["retry"] == ["create", "retry"]
    assert paths["dead_letter"] == ["create", "dead_letter"]
    said = [attributes_of(span) for span in traces.named("process")]
    assert [each["outbox_relay.attempt"] for each in said] == [1, 1, 2, 2, 3, 3]
    assert [each.get("error.type") for each in said] == [
        *["ValueError", "asyncio.exceptions.CancelledError"] * 2,
        *[None, "asyncio.exceptions.CancelledError"],
    ]
    assert LEAK_MARKER not in traces.text()


async def test_both_commands_trace_under_the_agent_of_opentelemetry(
    sqlite_url, embedded_broker_url, tmp_path
):
    """The agent sets up the SDK by the environment alone, and prints the spans."""
    environment = {
        "MQ_DATABASE_URL": sqlite_url,
        "MQ_BROKER_URL": embedded_broker_url,
        "MQ_ENABLE_METRICS": "false",
        "OTEL_TRACES_EXPORTER": "console",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    commands = {"consumer": ["run", "tests.support.effects:consumer"], "relay": ["run"]}
    engine = create_engine(make_url(sqlite_url), pool_size=2, application_name="test")
    async with engine.begin() as connection:
        await effects.create(connection)
        await connection.execute(
            outbox.insert(an_event(payload=SECRET, headers={"traceparent": TRACEPARENT}))
        )
    await engine.dispose()
    processes: list[ChildProcess] = []
    async with AsyncExitStack() as stack:
        for name, arguments in commands.items():
            process = ChildProcess(
                [sys.executable, "-c", AGENT, sys.executable, "-m", name, *arguments],
                log=tmp_path / f"{name}.log",
                env=environment,
            )
            processes.append(await stack.enter_async_context(process))
            await process.wait_for_line(f"{name}_started", within=60)
        for process, span in zip(processes, ("handle test.happened", "publish "), strict=True):
            await process.wait_for_line(f'"name": "{span}', within=60)
        printed = "".join(process.output for process in processes)

    assert printed.count(f'"trace_id": "0x{TRACEPARENT[3:35]}"') >= 2
    assert LEAK_MARKER not in printed
