#!/usr/bin/env bash
# The CloudEvents SDK for Python writes JSON in binary mode, and no content type.
#
# Seen with cloudevents 2.2.0, 2026-11. An event is made without `datacontenttype`, with a dict as
# data. `to_binary_event` writes the dict as JSON, but no content type, in each of the bindings for
# AMQP 1.0, HTTP, Kafka and RabbitMQ. The SDK itself takes no content type for JSON when it reads.
#
# One would guess otherwise: the docstrings of `to_binary` show such an event with the content type
# application/json, for RabbitMQ, and it is what the SDK assumed to make the text. In structured
# mode a missing `datacontenttype` means JSON, but the specification says so only of that format,
# and that a translation to another one should set the type that was implied. A receiver other than
# this SDK takes bytes of an unknown type: a web framework does not parse them, and a consumer that
# decodes by content type refuses the message, although the same event passes in structured mode.
#
# So a producer sets `datacontenttype`, and a consumer that wants such events tries JSON for them.
#
# Needs Python 3.11 or newer. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check --quiet install cloudevents==2.2.0 2>/dev/null ||
  { echo "the packages are missing" >&2; exit 3; }

timeout 60 "$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import json

from cloudevents.core.bindings import amqp, http, kafka, rabbitmq
from cloudevents.core.v1.event import CloudEvent

DATA = {"ward": 7}
JSON = "application/json"


def written(event):
    """The content type and the body in binary mode, of each binding."""
    by_amqp, by_http = amqp.to_binary_event(event), http.to_binary_event(event)
    by_kafka, by_rabbitmq = kafka.to_binary_event(event), rabbitmq.to_binary_event(event)
    of_kafka = by_kafka.headers.get("content-type")
    return {
        "amqp": (by_amqp.properties.get("content-type"), by_amqp.application_data),
        "http": (by_http.headers.get("content-type"), by_http.body),
        "kafka": (of_kafka and of_kafka.decode(), by_kafka.value),
        "rabbitmq": (by_rabbitmq.content_type, by_rabbitmq.body),
    }


attributes = {"type": "ward.left", "source": "/wards"}
plain = CloudEvent(attributes, DATA)
typed = CloudEvent({**attributes, "datacontenttype": JSON}, DATA)

print("cloudevents", importlib.metadata.version("cloudevents"))
for event, seen in ((plain, None), (typed, JSON)):
    for binding, (content_type, body) in written(event).items():
        given = event.get_datacontenttype()
        print(f"{binding:8} datacontenttype {given}: content type {content_type}, body {body}")
        assert content_type == seen, (binding, content_type)
        assert json.loads(body) == DATA, (binding, body)

shown = rabbitmq.to_binary.__doc__
assert '# message.content_type = "application/json"' in shown and "datacontenttype=" not in shown
assert rabbitmq.from_rabbitmq_event(rabbitmq.to_binary_event(plain)).get_data() == DATA
PYTHON
