#!/usr/bin/env bash
# A Decimal field loses digits of a JSON number with a point, and keeps those of one without.
#
# Seen with pydantic 2.14.3 (pydantic-core 2.50.4), 2026-11. A model has one field `v: Decimal`.
# `model_validate_json` of 1234567890123456789.25 gives 1234567890123456800, and of
# 0.29999999999999998 gives 0.3; 1.10 becomes 1.1. The same digits in a string are exact, and so is
# an integer of 23 digits. The number is read as a float if it has a point, and the Decimal is made
# of the float's shortest text.
#
# One would guess otherwise: the manual says that a Decimal field takes whatever the constructor of
# Decimal takes, and that strictness has no effect on it in JSON; it names no float in between.
# JSON sets no precision either, and Python's own `json.loads(text, parse_float=Decimal)` is exact.
# The result looks right up to 15 digits, so that tests with small amounts pass. Limits do not help:
# with `decimal_places=2` and `max_digits=21` the first number is accepted, with the wrong value.
#
# So an exact number goes through JSON as a string, or is parsed with `parse_float=Decimal` and
# then validated as Python objects.
#
# Needs Python 3.11 or newer. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check --quiet install \
  pydantic==2.14.3 pydantic-core==2.50.4 2>/dev/null || { echo "the packages are missing" >&2; exit 3; }

timeout 60 "$folder/venv/bin/python" - <<'PYTHON'
import json
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Plain(BaseModel):
    v: Decimal


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    v: Decimal


class Limited(BaseModel):
    v: Annotated[Decimal, Field(max_digits=21, decimal_places=2)]


def read(model, text):
    return str(model.model_validate_json(f'{{"v": {text}}}').v)


SEEN = {
    "1234567890123456789.25": "1234567890123456800",
    "0.29999999999999998": "0.3",
    "1.10": "1.1",
    "12345678901234567890123": "12345678901234567890123",
}
for text, seen in SEEN.items():
    as_number, as_string, strictly = read(Plain, text), read(Plain, f'"{text}"'), read(Strict, text)
    objects = json.loads(f'{{"v": {text}}}', parse_float=Decimal)
    by_json = str(Plain.model_validate(objects).v)
    print(f"{text}: number {as_number}, string {as_string}, strict {strictly}, json {by_json}")
    assert as_number == strictly == seen, (as_number, strictly)
    assert as_string == by_json == text, (as_string, by_json)

limited = read(Limited, "1234567890123456789.25")
print("with max_digits and decimal_places:", limited)
assert limited == "1234567890123456800", limited
PYTHON
