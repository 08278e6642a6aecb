"""
Hooks of the application, which neither delay nor break the work of a consumer.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from consumer import Consumer, DeadLettered, Failure, Message, hooks
from consumer.bound import bind
from consumer.hooks import HookOutcome, Hooks
from outbox.errors import ConfigurationError
from tests.support.eventually import eventually

MESSAGE = Message("id", "a", None, "key", "a", datetime.now(UTC), None, {}, 1, redelivered=False)
ERROR = ValueError("theirs")
FAILURE = Failure(MESSAGE, ERROR, "etl", "q")
DEAD_LETTER = DeadLettered("expired", None, None, "id", "a", 1, "etl", "q")


class Calls:
    """Hooks, what they were called with, and how the calls have ended."""

    def __init__(self, *functions: Any) -> None:
        self.got: list[Any] = []
        self.ended: list[tuple[str, str, str]] = []
        self.hooks = Hooks(functions or [self.note], [self.note], ended=self._ended)

    async def note(self, argument: Any) -> None:
        self.got.append(argument)

    def _ended(self, hook: str, outcome: HookOutcome, error: BaseException | None) -> None:
        self.ended.append((hook, outcome.value, type(error).__name__))


async def test_hooks_get_each_failure_and_each_dead_letter():
    calls = Calls()
    async with calls.hooks.running():
        calls.hooks.failed(FAILURE)
        calls.hooks.dead_lettered(DEAD_LETTER)

    assert calls.got == [FAILURE, DEAD_LETTER]
    assert calls.ended == [
        ("on_failure", "succeeded", "NoneType"),
        ("on_dead_letter", "succeeded", "NoneType"),
    ]


@pytest.mark.parametrize(
    "error",
    [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, TimeoutError, asyncio.QueueFull],
)
async def test_a_hook_that_raises_is_reported_and_others_are_called(error):
    """As a failure, also if the error looks like that of a call that the consumer ended."""

    async def fails(_failure: Failure) -> None:
        raise error

    calls = Calls(fails)
    async with calls.hooks.running():
        for _ in range(hooks.AT_ONCE + 1):
            calls.hooks.failed(FAILURE)
        calls.hooks.dead_lettered(DEAD_LETTER)

    assert calls.got == [DEAD_LETTER]
    failed = [ended for ended in calls.ended if ended[1] != "succeeded"]
    assert failed == [("on_failure", "failed", error.__name__)] * (hooks.AT_ONCE + 1)


async def test_a_hook_that_cancels_itself_is_reported():
    async def cancels(_failure: Failure) -> None:
        task = asyncio.current_task()
        assert task
        task.cancel()
        await asyncio.sleep(0)

    calls = Calls(cancels)
    async with calls.hooks.running():
        calls.hooks.failed(FAILURE)

    assert calls.ended == [("on_failure", "failed", "CancelledError")]


async def test_a_hook_that_takes_too_long_is_cancelled(monkeypatch):
    monkeypatch.setattr(hooks, "LONGEST_CALL", timedelta(milliseconds=20))
    cancelled = asyncio.Event()

    async def hangs(_failure: Failure) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    calls = Calls(hangs)
    async with calls.hooks.running():
        calls.hooks.failed(FAILURE)
        await eventually(lambda: calls.ended, within=10)

    assert calls.ended == [("on_failure", "timed_out", "NoneType")]
    assert cancelled.is_set()


async def test_calls_beyond_the_bound_are_dropped_and_reported(monkeypatch):
    monkeypatch.setattr(hooks, "MOST_WAITING", 2)
    calls = Calls()
    for _ in range(3):
        calls.hooks.failed(FAILURE)

    assert calls.ended == [("on_failure", "dropped", "NoneType")]
    async with calls.hooks.running():
        pass
    assert calls.got == [FAILURE, FAILURE]


async def test_calls_that_wait_when_the_process_stops_are_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(hooks, "LONGEST_CALL", timedelta(milliseconds=50))

    async def slow(_failure: Failure) -> None:
        await asyncio.Event().wait()

    calls = Calls(slow)
    async with calls.hooks.running():
        for _ in range(100):
            calls.hooks.failed(FAILURE)

    assert len(calls.ended) == 100


async def test_hooks_of_a_consumer_are_coroutine_functions_with_resources():
    etl = Consumer("etl", bindings=["#"])

    with pytest.raises(ConfigurationError, match=r"^consumer etl: on_failure print: must be"):
        etl.on_failure(print)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="http, is a resource"):

        @etl.on_dead_letter
        async def page(dead_letter: DeadLettered, http: object) -> None: ...

    @etl.on_failure
    async def report(failure: Failure) -> None: ...

    assert bind(etl).on_failure == [report]
    assert bind(etl).on_dead_letter == []
