#!/usr/bin/env bash
# fhir.resources writes decimals and integer64 otherwise than FHIR, and raises KeyError for input.
#
# Seen with fhir.resources 8.3.0 (fhir-core 1.1.12, pydantic 2.14.3), 2026-11.
#
# A quantity of Decimal("6.30") is written as 6.3, and one of 0.1234567890123456789 as
# 0.12345678901234568: each decimal goes through a float. FHIR says that its digits are significant,
# and that implementations keep them. Reading by `model_validate_json` loses them as well, as
# pydantic does; only `model_validate` of `json.loads(text, parse_float=Decimal)` keeps them.
#
# `SubscriptionStatus.eventsSinceSubscriptionStart` is an integer64 in R5, which is a string in JSON.
# The library reads a string, and writes a number.
#
# A bundle with a resource of an unknown type raises KeyError('…Type') and not ValidationError, so
# that code which expects the errors of pydantic for bad input does not get one.
#
# One would guess otherwise of a library whose models are meant to write what FHIR defines. So the
# JSON that was received, or made, is what travels, and the library only checks it.
#
# Needs Python 3.11 or newer. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check --quiet install \
  fhir.resources==8.3.0 fhir-core==1.1.12 pydantic==2.14.3 2>/dev/null \
  || { echo "the packages are missing" >&2; exit 3; }

timeout 60 "$folder/venv/bin/python" - <<'PYTHON'
import json
from decimal import Decimal

from fhir.resources.bundle import Bundle
from fhir.resources.quantity import Quantity
from fhir.resources.subscriptionstatus import SubscriptionStatus

for text, written in {"6.30": "6.3", "0.1234567890123456789": "0.12345678901234568"}.items():
    body = f'{{"value": {text}}}'
    exact = Quantity.model_validate(json.loads(body, parse_float=Decimal))
    read = Quantity.model_validate_json(body)
    print(f"{text}: exact {exact.value}, read as JSON {read.value}, {exact.model_dump_json()}")
    assert str(exact.value) == text, exact.value
    assert str(read.value) == written, read.value
    assert exact.model_dump_json() == f'{{"value":{written}}}', exact.model_dump_json()

status = SubscriptionStatus.model_validate({
    "resourceType": "SubscriptionStatus",
    "status": "active",
    "type": "event-notification",
    "eventsSinceSubscriptionStart": "2",
    "subscription": {"reference": "Subscription/1"},
})
count = json.loads(status.model_dump_json())["eventsSinceSubscriptionStart"]
print("integer64:", repr(count))
assert count == 2, count

unknown = {"resourceType": "Bundle", "type": "batch", "entry": [{"resource": {"resourceType": "X"}}]}
try:
    Bundle.model_validate(unknown)
except KeyError as error:
    print("an unknown type of resource:", repr(error))
else:
    raise AssertionError("an unknown type of resource raises no KeyError")
PYTHON
