"""
The spans of a consumer around an executor that is no part of the test.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry import trace
from opentelemetry.trace.status import StatusCode

from consumer.execution.delivery_batch import DeliveryBatch, QueuedDelivery
from consumer.execution.traced_executor import TracedExecutor, traced
from consumer.handler import Handler
from consumer.message_copies import replay_copy
from consumer.tracing import Tracing
from consumer.verdict import DONE, DUPLICATE, FILTERED, WAIT, DeadLetter, TryAgain, Verdict
from outbox.errors import DatabaseUnavailable
from outbox.transports.delivery import Delivery
from outbox.wire import codec
from tests.support.builders import LEAK_MARKER, TRACEPARENT, an_event, on_the_wire
from tests.support.traces import Traces, attributes_of
from tests.support.traces import traced as program_traced

RETRY = TryAgain(1, timedelta(seconds=5))


@pytest.fixture
def traces() -> Iterator[Traces]:
    with program_traced(Traces()) as set_up:
        yield set_up


class Calls:
    """An executor that calls the handler for each message, and returns *verdicts*."""

    def __init__(self, *verdicts: Verdict, raises: BaseException | None = None) -> None:
        self._verdicts = verdicts
        self._raises = raises

    async def execute(self, batch: DeliveryBatch) -> list[Verdict]:
        assert batch.handler is not None
        if self._raises is not None:
            raise self._raises
        envelopes = [codec.from_wire(each.message) for each in batch.deliveries]
        for argument in [envelopes] if batch.handler.takes_list else envelopes:
            try:
                await batch.handler.call(argument, None)
            except ValueError:
                assert RETRY in self._verdicts
        return list(self._verdicts)


def a_delivery(traceparent: str | None = TRACEPARENT, **changes: Any) -> Delivery:
    headers = {} if traceparent is None else {"traceparent": traceparent}
    return Delivery(
        on_the_wire(an_event(headers=headers, **changes), exchange="main"), 1, redelivered=False
    )


async def executed(
    traces: Traces,
    executor: Calls,
    *deliveries: Delivery,
    function: Callable[..., Any] | None = None,
    takes_list: bool = False,
) -> list[Verdict]:
    async def nothing(_argument: Any, _session: Any) -> None: ...

    handler = Handler("test.happened", function or nothing, batch_size=10, takes_list=takes_list)
    queued = [QueuedDelivery(0, at, 0.0, each) for at, each in enumerate(deliveries)]
    tracing = Tracing(traces.provider.get_tracer("t"), "etl", "q.etl", {"messaging.system": "s"})
    batch = DeliveryBatch(handler, queued, deliveries)
    return await TracedExecutor(executor, tracing).execute(batch)


@pytest.mark.parametrize(
    ("verdict", "status", "error"),
    [
        (DONE, "success", None),
        (DUPLICATE, "duplicate", None),
        (FILTERED, "filtered", None),
        (WAIT, "waiting", None),
        (RETRY, "retry", "_OTHER"),
        (DeadLetter(1, "malformed", "payload"), "failed", "malformed"),
        (DeadLetter(1, "chosen_by_a_handler"), "failed", "rejected_by_handler"),
    ],
)
async def test_the_span_of_an_attempt_has_its_verdict(traces, verdict, status, error):
    assert await executed(traces, Calls(verdict), a_delivery()) == [verdict]

    span = traces.one("process q.etl")
    assert attributes_of(span)["outbox_relay.status"] == status
    assert attributes_of(span).get("error.type") == error
    assert span.status.status_code is (StatusCode.ERROR if error else StatusCode.UNSET)
    assert span.status.description is None
    assert span.parent is not None
    assert span.parent.trace_id == int(TRACEPARENT[3:35], 16)


async def test_each_call_of_a_batch_is_in_the_trace_of_its_message(traces):
    parents = [f"00-{n:032x}-{n:016x}-01" for n in (1, 2, 3)]
    called: list[int] = []

    async def handle(_message: Any, _session: Any) -> None:
        called.append(trace.get_current_span().get_span_context().trace_id)
        if len(called) == 2:
            raise ValueError(LEAK_MARKER)

    await executed(traces, Calls(DONE, RETRY, DONE), *map(a_delivery, parents), function=handle)

    assert called == [1, 2, 3]
    assert [attributes_of(each).get("error.type") for each in traces.named("process")] == [
        None, "ValueError", None,
    ]  # fmt: skip
    assert LEAK_MARKER not in traces.text()


async def test_of_two_copies_in_a_batch_the_call_belongs_to_the_first(traces):
    delivery = a_delivery(f"00-{1:032x}-{1:016x}-01")
    copy = a_delivery(f"00-{2:032x}-{2:016x}-01")
    copy.message.message_id = delivery.message.message_id

    await executed(traces, Calls(DONE, DUPLICATE), delivery, copy)

    assert {span.context.trace_id for span in traces.named("handle") if span.context} == {1}


async def test_a_list_of_messages_is_one_span_that_links_to_all(traces):
    parents = [f"00-{n:032x}-{n:016x}-01" for n in range(1, 201)]
    verdicts = [DONE] * 199

    await executed(traces, Calls(*verdicts, RETRY), *map(a_delivery, parents), takes_list=True)

    span = traces.one("process q.etl")
    assert span.parent is None
    assert [link.context.trace_id for link in span.links] == list(range(1, 129))
    assert attributes_of(span)["messaging.batch.message_count"] == 200
    assert attributes_of(span)["outbox_relay.status"] == "mixed"
    assert traces.path(traces.one("handle")) == ["process", "handle"]


@pytest.mark.parametrize("takes_list", [False, True])
async def test_a_trace_that_is_not_recorded_stays_so_in_the_handler(traces, takes_list):
    contexts: list[trace.SpanContext] = []

    async def handle(_message: Any, _session: Any) -> None:
        contexts.append(trace.get_current_span().get_span_context())

    deliveries = [a_delivery(f"{TRACEPARENT[:-2]}00") for _ in range(2)]
    calls = Calls(DONE, DONE)
    await executed(traces, calls, *deliveries, function=handle, takes_list=takes_list)

    assert [(each.trace_id, each.trace_flags.sampled) for each in contexts] == [
        (int(TRACEPARENT[3:35], 16), False)
    ] * (1 if takes_list else 2)
    assert list(traces) == []


@pytest.mark.parametrize("parent", [None, "no trace", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
async def test_a_message_without_a_trace_begins_one(traces, parent):
    await executed(traces, Calls(DONE), a_delivery(parent))

    span = traces.one("process q.etl")
    assert (span.parent, span.links) == (None, ())


async def test_an_attempt_that_could_not_be_made_ends_its_span(traces):
    with pytest.raises(DatabaseUnavailable):
        await executed(traces, Calls(raises=DatabaseUnavailable(LEAK_MARKER)), a_delivery())

    said = attributes_of(traces.one("process q.etl"))
    assert said["error.type"] == "outbox.errors.DatabaseUnavailable"
    assert LEAK_MARKER not in traces.text()


async def test_the_span_of_a_replayed_message_names_the_run(traces):
    run, delivery = uuid4(), a_delivery()
    delivery = Delivery(replay_copy(delivery.message, queue="q.etl", run=run), 1, redelivered=True)

    await executed(traces, Calls(DONE), delivery)

    said = attributes_of(traces.one("process q.etl"))
    assert said["outbox_relay.replay"] == str(run)
    assert said["outbox_relay.redelivered"] is True


def test_without_an_sdk_no_executor_stands_between():
    executor = Calls()

    assert traced(executor, None) is executor
