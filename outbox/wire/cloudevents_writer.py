"""
Writing CloudEvents 1.0: the messages of the relay, with attributes for other programs.

Our own properties and headers stay as they are, so that our consumers read the same event.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from outbox import json_text, media_type
from outbox.wire.cloudevents import CORE, SPECVERSION, STRUCTURED
from outbox.wire.codec import WireMessage
from outbox.wire.headers import OCCURRED_AT_HEADER

URI_REFERENCE = r"^[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]{1,255}$"

_URI_REFERENCE = re.compile(URI_REFERENCE)
_EXTENSION = re.compile(r"[a-z0-9]{1,20}")
_INTEGERS = range(-(2**31), 2**31)


@dataclass(frozen=True, slots=True)
class CloudEventsWriter:
    """
    Writes messages as CloudEvents.

    Args:
        mode: `binary` adds attributes as headers, `structured` puts them around the body.
        source: The attribute `source` of events without a header of that name.
        prefix: Of the headers in binary mode.

    """

    mode: Literal["binary", "structured"]
    source: str
    prefix: str = "cloudEvents_"

    def written(self, message: WireMessage) -> WireMessage:
        """*message* as a CloudEvent; in binary mode if its body is compressed."""
        attributes = self._attributes(message)
        if self.mode == "structured" and not message.content_encoding:
            body = _structured(attributes, message)
            return replace(message, body=body, content_type=STRUCTURED)
        named = {self.prefix + name: value for name, value in attributes.items()}
        return replace(message, headers={**message.headers, **named})

    def _attributes(self, message: WireMessage) -> dict[str, Any]:
        headers = message.headers
        own_source = headers.get("source")
        is_source = isinstance(own_source, str) and _URI_REFERENCE.fullmatch(own_source)
        attributes: dict[str, Any] = {
            "specversion": SPECVERSION,
            "id": message.message_id,
            "source": own_source if is_source else self.source,
            "type": message.type,
            "time": headers[OCCURRED_AT_HEADER].replace("+00:00", "Z"),
        }
        if message.correlation_id is not None:
            attributes["correlationid"] = message.correlation_id
        return attributes | _extensions(headers)


def _extensions(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers of the event whose names may be attributes."""
    return {
        name: value if not isinstance(value, int) or value in _INTEGERS else str(value)
        for name, value in headers.items()
        if name not in CORE and _EXTENSION.fullmatch(name)
    }


def _structured(attributes: Mapping[str, Any], message: WireMessage) -> bytes:
    content_type = message.content_type or media_type.UNKNOWN
    start = json.dumps({**attributes, "datacontenttype": content_type})[:-1].encode()
    if media_type.names_json(content_type):
        # The text itself, so that numbers keep their digits.
        whole = start + b', "data": ' + json_text.without_mark(message.body) + b"}"
        if json_text.is_json(message.body) and not json_text.is_too_deep(whole):
            return whole
    return start + b', "data_base64": "' + base64.b64encode(message.body) + b'"}'
