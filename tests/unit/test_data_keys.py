"""
Data keys: when a new one is taken, threads and forks, and a source that is unavailable.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

import outbox
from outbox import producer_encryption
from outbox.encryption import body_format, data_keys, encryptor
from outbox.encryption.body_format import SUBJECT_AT, SUBJECT_BYTES
from outbox.encryption.data_keys import CurrentDataKey, UnwrappedKeys
from outbox.encryption.encryptor import Encryptor
from outbox.encryption.keys import KeysUnavailable, UnknownKey, WrappedKey, WrongKey
from outbox.encryption.process_lock import ProcessLock
from outbox.errors import InvalidEvent
from tests.support.builders import an_event, an_upload
from tests.support.encryption import SourceOfKeys, SubjectsInMemory, a_ring, encrypted_row


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source() -> SourceOfKeys:
    return SourceOfKeys()


def test_a_data_key_is_renewed_by_count_and_by_time(source, clock, monkeypatch):
    monkeypatch.setattr(data_keys, "MAX_EVENTS", 3)
    current = CurrentDataKey(source, clock=clock)

    by_count = [current.take() for _ in range(7)]
    assert len({key.key_part for key in by_count[:3]}) == 1
    assert (len({key.key_part for key in by_count}), source.calls) == (3, 3)

    clock.now += data_keys.MAX_SECONDS - 0.1
    assert current.take() is by_count[-1]
    clock.now += 0.1
    assert current.take() is not by_count[-1]


def test_the_data_key_stays_in_use_while_its_source_is_unavailable(source, clock):
    current = CurrentDataKey(source, clock=clock)
    first = current.take()
    source.is_available = False

    clock.now += data_keys.MAX_SECONDS
    assert [current.take(), current.take()] == [first, first]
    assert source.calls == 2
    clock.now += data_keys.RETRY_SECONDS
    assert (current.take(), source.calls) == (first, 3)

    source.is_available = True
    clock.now += data_keys.RETRY_SECONDS
    assert current.take() is not first

    source.is_available = False
    clock.now += data_keys.MAX_SECONDS_UNAVAILABLE
    with pytest.raises(KeysUnavailable):
        current.take()


def test_a_used_up_data_key_is_not_used_again_while_its_source_is_unavailable(
    source, clock, monkeypatch
):
    monkeypatch.setattr(data_keys, "MAX_EVENTS", 2)
    current = CurrentDataKey(source, clock=clock)
    current.take(), current.take()
    source.is_available = False

    for _ in range(2):
        with pytest.raises(KeysUnavailable):
            current.take()


def test_a_producer_without_its_source_records_nothing(source):
    producer = Encryptor(source)
    source.is_available = False

    with pytest.raises(KeysUnavailable):
        encrypted_row(producer, an_event())


def test_threads_share_one_data_key_and_use_each_nonce_once(source):
    producer, event = Encryptor(source), an_event()
    together = threading.Barrier(4)

    def record(_: int) -> list[bytes]:
        together.wait(10)
        return [encrypted_row(producer, event)["body"] for _ in range(500)]

    with ThreadPoolExecutor(4) as pool:
        bodies = [body for some in pool.map(record, range(4)) for body in some]

    parsed = [body_format.parse(body) for body in bodies]
    assert len({parts.nonce for parts in parsed}) == len(bodies) == 2_000
    assert len({parts.wrapped_key for parts in parsed}) == source.calls == 1


def test_threads_renew_a_data_key_once(source, clock, monkeypatch):
    monkeypatch.setattr(data_keys, "MAX_EVENTS", 50)
    current = CurrentDataKey(source, clock=clock)

    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda _: current.take().key_part, range(1_000)))

    assert max(taken.count(part) for part in set(taken)) <= 50
    assert source.calls == len(set(taken)) == 20


def test_a_forked_child_records_with_other_nonces_although_a_thread_held_the_lock(source):
    producer, event = Encryptor(source), an_event()
    encrypted_row(producer, event)
    reading, writing = os.pipe()

    with producer._current._lock:
        child = os.fork()
        if child == 0:  # the child ends without the hooks of pytest
            try:
                producer._current._use = None
                os.write(writing, encrypted_row(producer, event)["body"])
            finally:
                os._exit(0)
    os.close(writing)
    body = os.read(reading, 65_536)
    os.close(reading)

    assert os.waitpid(child, 0)[1] == 0
    ours = body_format.parse(encrypted_row(producer, event)["body"])
    theirs = body_format.parse(body)
    assert ours.nonce != theirs.nonce
    assert ours.wrapped_key != theirs.wrapped_key


def test_a_process_lock_excludes_other_threads():
    lock, entered = ProcessLock(), threading.Event()

    def enter() -> None:
        with lock:
            entered.set()

    with lock:
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.01)
    thread.join(10)
    assert entered.is_set()


def test_a_consumer_asks_its_source_once_for_each_data_key_and_forgets_the_oldest(
    source, monkeypatch
):
    monkeypatch.setattr(data_keys, "MOST_UNWRAPPED", 2)
    known = UnwrappedKeys(source)
    first, second, third = (source.ring.wrap(bytes(32)) for _ in range(3))

    for wrapped in (first, second, first, third, third):
        known.cipher(wrapped)

    assert source.calls == 3
    assert [known.is_known(wrapped) for wrapped in (first, second, third)] == [False, True, True]


def test_a_wrapped_key_is_bound_to_the_id_of_its_key_and_has_32_bytes(source):
    known, wrapped = UnwrappedKeys(source), source.ring.wrap(bytes(32))

    with pytest.raises(UnknownKey):
        known.cipher(WrappedKey("another", wrapped.wrapped))
    for wrong in (b"", wrapped.wrapped[:-1], bytes(60), a_ring().wrap(bytes(32)).wrapped):
        with pytest.raises(WrongKey):
            known.cipher(WrappedKey(wrapped.key_id, wrong))
    with pytest.raises(WrongKey):
        known.cipher(source.ring.wrap(bytes(16)))


def test_the_key_of_a_subject_is_remembered_for_a_minute(source, clock, monkeypatch):
    monkeypatch.setattr(encryptor, "MOST_SUBJECTS", 2)
    subjects = SubjectsInMemory()
    producer = Encryptor(source, subjects=subjects, clock=clock)

    def record(subject: str) -> None:
        encrypted_row(producer, an_event(subject=subject))

    for subject in ("a", "a", "b", "b"):
        record(subject)
    assert subjects.asked == 2
    clock.now += encryptor.SUBJECT_SECONDS
    record("a")
    assert subjects.asked == 3
    record("c")
    record("a")
    assert (subjects.asked, len(producer._subjects)) == (4, 2)
    with pytest.raises(InvalidEvent, match="subject: needs a key database"):
        encrypted_row(Encryptor(source), an_event(subject="a"))


def test_a_model_names_the_person_by_a_field_where_persons_have_keys(source, monkeypatch):
    monkeypatch.setattr(producer_encryption, "_choice", None)
    subjects = SubjectsInMemory()

    def subject_of(event: object) -> UUID | None:
        body = outbox.insert(event).compile().params["body_m0"]
        id_ = UUID(bytes=body[SUBJECT_AT : SUBJECT_AT + SUBJECT_BYTES])
        return id_ if id_.int else None

    outbox.use_encryption(source, subjects=subjects)
    named = subject_of(an_upload(user_id="a"))
    assert named is not None
    assert subject_of(an_event(subject="a")) == named != subject_of(an_event(subject="b"))
    assert subject_of(an_event()) is None
    with pytest.raises(InvalidEvent, match=r"payload\.user_id: must have no white space"):
        subject_of(an_upload(user_id="a b"))

    outbox.use_encryption(source)
    assert subject_of(an_upload(user_id="a b")) is None
