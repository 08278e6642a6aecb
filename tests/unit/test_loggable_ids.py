"""
Ids that the log shows as they are, and the digests of all others.
"""

import runpy
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.runtime import loggable_ids
from outbox.runtime.loggable_ids import loggable

KEY = b"k" * 32


@given(st.uuids(), st.sampled_from(["{}", "{{{}}}", "urn:uuid:{}"]))
def test_a_uuid_in_any_spelling_is_shown(uuid, spelling):
    for text in (spelling.format(uuid), spelling.format(str(uuid).upper())):
        assert loggable(text) == text
    assert loggable(uuid) == str(uuid)


@pytest.mark.parametrize(
    "identifier",
    [
        "0194fdc2fa2f7c6bb7d1f1b8a2c3d4e5",
        "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "01arz3ndektsv4rrffq69g5fav",
        "00f067aa0ba902b7",
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    ],
)
def test_a_ulid_a_trace_id_and_a_hash_are_shown(identifier):
    assert loggable(identifier) == identifier


@pytest.mark.parametrize(
    "identifier",
    [
        "",
        "Jane Doe",
        "jane@example.org",
        "patient-4711",
        "A123456789",  # of a German health insurance
        "RSSMRA85T10A562S",  # an Italian codice fiscale, 16 letters and digits
        "11010519491231002X",  # a Chinese identity number
        "110105194912310021",
        "4111111111111111",  # of a card
        "0000000000004711",
        "00000000000000000000004711",
        "deadbeef",
        "ward-7/00f067aa0ba902b7",
        "00f067aa0ba902b7\n",
        "81ARZ3NDEKTSV4RRFFQ69G5FAV",  # no ULID begins so
        "\N{ARABIC-INDIC DIGIT SEVEN}" * 16 + "a",
    ],
)
def test_an_id_that_may_name_a_person_is_a_digest(identifier):
    shown = loggable(identifier)

    assert shown.startswith("digest:")
    assert len(shown) == len("digest:1a2b3c4d5e6f")


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=300))
def test_a_text_is_shown_only_if_it_has_no_letter_beyond_those_of_a_program(text):
    shown = loggable(text, key=KEY)

    assert shown == loggable(text, key=KEY)
    if not shown.startswith("digest:"):
        assert text.isascii()
        assert len(text) >= 16
        assert set(text.lower()) & set("0123456789")


def test_the_same_id_has_the_same_digest_in_one_process_and_another_one_in_another():
    of_another_process = runpy.run_path(loggable_ids.__file__)["loggable"]

    assert loggable("patient-4711") == loggable("patient-4711") != loggable("patient-4712")
    assert loggable("patient-4711") != of_another_process("patient-4711")


def test_the_id_of_a_message_may_be_a_uuid():
    assert loggable(UUID(int=5)) == "00000000-0000-0000-0000-000000000005"
