"""
Filters in the syntax of the command line, and the parts of a dead letter that are shown.
"""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.cli import dead_letter_view as display
from outbox.dead_letters import redaction as exhibit
from outbox.dead_letters import repair
from outbox.dead_letters.selection import (
    Selection,
    confirm_all,
    selection,
    whole_number,
    words,
)
from outbox.errors import ConfigurationError
from outbox.payload import MAX_BODY_BYTES
from tests.support.builders import AN_INSTANT, LEAK_MARKER
from tests.support.dead_letters import a_dead_letter_of_the_relay


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("2h", timedelta(hours=2)),
        ("7d", timedelta(days=7)),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text, duration):
    chosen = selection({"older_than": text, "newer_than": text})

    assert (chosen.older_than, chosen.newer_than) == (duration, duration)


@pytest.mark.parametrize(
    "text", ["", "7", "s", "-7s", "7 s", "0s", "1w", "٣s", "36501d", "9" * 99]
)
def test_an_invalid_duration_is_refused_and_not_quoted(text):
    with pytest.raises(ConfigurationError) as raised:
        selection({"newer_than": text})

    assert str(raised.value) == "--newer-than: must be a duration such as 90s, 15m, 2h or 7d"


@given(st.text())
def test_any_text_is_a_number_or_refused(text):
    with suppress(ConfigurationError):
        assert 0 < whole_number("--limit", text) < 2**63


@pytest.mark.parametrize("option", ["type", "reason", "error", "place", "key"])
def test_a_filter_value_that_no_database_can_compare_is_refused(option):
    for text in ("\udcff", "x" * 1_025):
        with pytest.raises(ConfigurationError, match=f"--{option}: is"):
            selection({option: text})


@pytest.mark.parametrize("option", ["since", "until"])
@pytest.mark.parametrize("text", ["", "yesterday", "2026-03-01", "2026-03-01T08:30", "12", "\0"])
def test_a_time_without_its_zone_is_refused_and_not_quoted(option, text):
    with pytest.raises(ConfigurationError) as caught:
        selection({option: text})

    assert str(caught.value) == (
        f"--{option}: must be a time with its time zone such as 2026-03-01T08:30+01:00"
    )


def test_a_replay_needs_a_filter_or_all():
    assert confirm_all(Selection(), everything=True) == Selection()
    assert confirm_all(Selection(limit=1), everything=False) == Selection(limit=1)
    with pytest.raises(ConfigurationError, match="--all: is needed"):
        confirm_all(Selection(), everything=False)
    with pytest.raises(ConfigurationError, match="--all: cannot be given together with --id"):
        confirm_all(Selection(ids=(1,)), everything=True)


def test_the_audit_keeps_the_filters_and_that_a_key_was_given():
    chosen = selection(
        {
            "ids": ["7"],
            "type": "a",
            "reason": "b",
            "older_than": "1m",
            "newer_than": "1h",
            "error": "ValueError",
            "place": "etl.py:7",
            "since": "2026-03-01T08:30+01:00",
            "until": "2026-03-02T08:30Z",
            "key": LEAK_MARKER,
            "limit": "9",
        }
    )

    assert chosen.to_json() == {
        "id": [7],
        "type": "a",
        "reason": "b",
        "older_than_seconds": 60,
        "newer_than_seconds": 3600,
        "error": "ValueError",
        "place": "etl.py:7",
        "since": "2026-03-01T07:30:00+00:00",
        "until": "2026-03-02T08:30:00+00:00",
        "key": True,
        "limit": 9,
    }
    assert Selection().to_json() == {"all": True}


@pytest.mark.parametrize("text", [None, "", " \t"])
def test_a_reason_must_not_be_blank(text):
    with pytest.raises(ConfigurationError, match="--because: say why"):
        words("--because", text, needed="say why")


def a_shown_dead_letter(**changes):
    row = {
        "id": 1,
        "queue": None,
        "reply_to": None,
        "error_class": None,
        "error_place": None,
        "size_bytes": 2,
        "first_at": AN_INSTANT,
        "last_at": AN_INSTANT,
        "body_expired_at": None,
        **a_dead_letter_of_the_relay(idempotency_key=LEAK_MARKER),
    }
    return {**row, **changes}


def test_metadata_has_neither_body_nor_keys_nor_headers_that_are_not_allowed():
    headers = {
        "source": "ward",
        "x-outbox-attempt": 3,
        "x-outbox-idempotency-key": LEAK_MARKER,
        "x-user": LEAK_MARKER,
        "user": LEAK_MARKER,
    }

    shown = exhibit.metadata(a_shown_dead_letter(headers=headers))

    assert shown["headers"] == {"source": "ward", "x-outbox-attempt": 3}
    assert LEAK_MARKER not in json.dumps(shown)


@pytest.mark.parametrize("headers", [None, [LEAK_MARKER], "x"])
def test_headers_that_are_not_a_json_object_are_not_shown(headers):
    assert exhibit.metadata(a_shown_dead_letter(headers=headers))["headers"] == {}


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"a": 1.10}', {"body": '{"a": 1.10}'}),
        ('"größe"'.encode(), {"body": '"größe"'}),
        (b"\xff", {"body_base64": "/w=="}),
        (b"text", {"body_base64": "dGV4dA=="}),
        (b"[" * 100_000, {"body_base64": exhibit.body({"body": b"[" * 100_000})["body_base64"]}),
    ],
)
def test_a_body_is_its_exact_text_or_base64(body, shown):
    assert exhibit.body({"body": body}) == shown


def test_terminal_control_characters_are_escaped():
    assert exhibit.printable("größe\x1b[2J\u009b\n\u202e") == "größe\\u001b[2J\\u009b\n\\u202e"


@pytest.mark.parametrize(
    ("duration", "said"),
    [
        (timedelta(seconds=-1), "0s"),
        (timedelta(seconds=59.9), "59s"),
        (timedelta(minutes=119), "1h"),
        (timedelta(days=8), "8d"),
    ],
)
def test_an_age_is_shown_in_its_largest_unit(duration, said):
    assert display.age(duration) == said


def test_a_repaired_body_must_match_its_content_type():
    repair.check(b"{}", "application/json; charset=utf-8")
    repair.check(b"\xff", "application/avro")
    repair.check(b"\xff", None)
    with pytest.raises(ConfigurationError, match="--body: is not JSON"):
        repair.check(b'{"a": NaN}', "application/json")


@pytest.mark.parametrize(
    "body",
    [b'{"a": 1e400}', b'{"a": 1, "a": 2}', b"[" * 201 + b"]" * 201, b'"\\ud800"', b'"\xff"'],
)
@pytest.mark.parametrize("content_type", ["Application/FHIR+JSON; fhirVersion=4.0", "text/json"])
def test_a_repaired_body_must_be_json_that_consumers_read(body, content_type):
    repair.check(b"[" * 200 + b"]" * 200, content_type)
    with pytest.raises(ConfigurationError, match="--body: is not JSON"):
        repair.check(body, content_type)


def test_a_repair_needs_one_dead_letter_and_a_readable_file(tmp_path):
    (tmp_path / "good").write_bytes(b"1" * MAX_BODY_BYTES)
    (tmp_path / "big").write_bytes(b"1" * (MAX_BODY_BYTES + 1))
    one = Selection(ids=(7, 7))

    assert len(repair.read(tmp_path / "good", one)) == MAX_BODY_BYTES
    for file, chosen, problem in (
        ("good", Selection(), "needs exactly one --id"),
        ("good", Selection(ids=(7, 8)), "needs exactly one --id"),
        ("missing", one, "cannot be read (FileNotFoundError)"),
        ("", one, "cannot be read (IsADirectoryError)"),
        ("big", one, "is larger than 1048576 bytes"),
    ):
        with pytest.raises(ConfigurationError) as raised:
            repair.read(tmp_path / file, chosen)
        assert str(raised.value) == f"--body: {problem}"


def test_times_are_shown_with_date_and_time_zone():
    shown = exhibit.metadata(a_shown_dead_letter(occurred_at=datetime(2026, 1, 2, tzinfo=UTC)))

    assert shown["occurred_at"] == "2026-01-02T00:00:00+00:00"
