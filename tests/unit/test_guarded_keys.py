"""
Sources of keys that are not ours: clients of services that fail, hang, or answer with nonsense.
"""

import os
import threading
from typing import Any

import pytest

from outbox.encryption import data_keys, guarded_keys
from outbox.encryption.data_keys import CurrentDataKey
from outbox.encryption.guarded_keys import MOST_CALLS, GuardedKeys, guarded
from outbox.encryption.keys import KeysUnavailable, UnknownKey, WrappedKey, WrongKey
from outbox.encryption.sources import both
from outbox.errors import ConfigurationError
from tests.support.encryption import a_ring
from tests.unit.test_data_keys import Clock

WRAPPED = WrappedKey("a", b"wrapped")


class Service:
    """A service whose client does what a test says."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.goes_on = threading.Event()
        self.hangs = False
        self.calls = 0

    def digest_key(self) -> Any:
        return self._answered()

    def wrap(self, _key: bytes, /) -> Any:
        return self._answered()

    def unwrap(self, _wrapped: WrappedKey, /) -> Any:
        return self._answered()

    def _answered(self) -> Any:
        self.calls += 1
        if self.hangs:
            self.goes_on.wait(60)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def guarded_service(service: Service, seconds: float = 60.0) -> GuardedKeys:
    return GuardedKeys(service, setting="KEYS", seconds=seconds)


@pytest.mark.parametrize("is_in_memory", [False, True])
@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        (RuntimeError("canary"), ()),
        (TimeoutError("canary"), ()),
        (SystemExit("canary"), ()),
        (UnknownKey(), ("unwrap",)),
        (WrongKey(), ("unwrap",)),
        (ConfigurationError("KMS_KEY_ID: is not set"), ("digest_key", "wrap")),
        (None, ()),
        ("canary", ()),
        ((1, "canary"), ()),
    ],
)
def test_a_source_raises_what_callers_know_and_no_text_of_its_own(answer, passes, is_in_memory):
    service = Service(answer)
    service.is_in_memory = is_in_memory
    keys = guarded_service(service)
    calls = {
        "digest_key": keys.digest_key,
        "wrap": lambda: keys.wrap(bytes(32)),
        "unwrap": lambda: keys.unwrap(WRAPPED),
    }

    for name, call in calls.items():
        expected = type(answer) if name in passes else KeysUnavailable
        with pytest.raises(expected) as raised:
            call()
        assert "canary" not in str(raised.value)


def test_a_call_that_does_not_return_ends_in_time_and_so_many_use_few_threads():
    service = Service()
    service.hangs, before = True, threading.active_count()
    keys = guarded_service(service, seconds=0.02)

    for _ in range(MOST_CALLS + 3):
        with pytest.raises(KeysUnavailable, match="KEYS: unwrap of the source did not answer"):
            keys.unwrap(WRAPPED)

    assert (service.calls, threading.active_count() - before) == (MOST_CALLS, MOST_CALLS)
    child = os.fork()
    if child == 0:  # the child ends without the hooks of pytest
        service.hangs, service.answer = False, b"key"
        os._exit(0 if keys.unwrap(WRAPPED) == b"key" else 1)
    assert os.waitpid(child, 0)[1] == 0
    service.goes_on.set()


def test_the_sources_of_others_are_guarded_and_ours_are_not():
    ring = a_ring()

    assert guarded(ring, setting="KEYS") is ring
    assert isinstance(both(Service(bytes(32)), None)[0], GuardedKeys)
    assert isinstance(both(f"python:{__name__}:a_service", None)[0], GuardedKeys)
    with pytest.raises(KeysUnavailable, match=r"python: the source cannot be made \(KeyError\)"):
        both(f"python:{__name__}:failing", None)


a_service = Service(bytes(32))


def failing() -> Service:
    raise KeyError("canary")


@pytest.mark.parametrize("failure", [None, KeysUnavailable("x"), ConfigurationError("x")])
def test_a_producer_records_on_while_its_next_data_key_is_wrapped(failure):
    """A producer in an event loop would stop it, every ten seconds while a service hangs."""
    clock, service = Clock(), Service(WRAPPED)
    current = CurrentDataKey(service, clock=clock)
    first = current.take()
    service.hangs, service.answer = True, failure or WrappedKey("b", b"wrapped")

    clock.now += data_keys.MAX_SECONDS - data_keys.EARLIER_SECONDS
    assert [current.take(), current.take()] == [first, first]

    service.goes_on.set()
    for thread in threading.enumerate():
        if "_make_beside" in thread.name:
            thread.join(10)
    assert (current.take() is first) == (failure is not None)
    assert service.calls == 2


def test_a_producer_asks_for_the_next_data_key_first_after_a_pause():
    """The key that it has may have been replaced for longer than five minutes."""
    clock, service = Clock(), Service(WRAPPED)
    current = CurrentDataKey(service, clock=clock)
    first = current.take()

    clock.now += data_keys.MAX_SECONDS
    assert current.take() is not first
    assert guarded_keys.CALL_SECONDS + data_keys.RETRY_SECONDS < data_keys.EARLIER_SECONDS
