"""
Records the messages that relays publish, and health data outside of bodies, as frames pass.
"""

import time
from collections.abc import Callable
from typing import Any

import pamqp.frame
from pamqp.commands import Basic

from tests.reliability.history import Leaked, Published, Record
from tests.reliability.leak_marker import is_leaked_in
from tests.support.network_conditions import Side
from tests.support.proxy import Link
from tests.support.wire_protocols import PUBLISH

_METHOD, _HEADER = b"\x01", b"\x02"


class WireRecorder:
    """
    Passes a record to *write* for each leak, and for each publish of a client.

    Args:
        counting: False where publishes are not the relay's, but copies of a consumer.

    """

    def __init__(self, write: Callable[[Record], None], *, counting: bool = True) -> None:
        self._write = write
        self._counting = counting
        self._publishing: set[tuple[Link, bytes]] = set()

    def __call__(self, link: Link, side: Side, message: bytes) -> None:
        kind = message[:1]
        if kind not in {_METHOD, _HEADER}:
            return
        if is_leaked_in(message):
            self._write(Leaked(time.time(), f"a frame of the {side.value}"))
        if side is not Side.CLIENT or not self._counting:
            return
        channel = (link, message[1:3])
        if PUBLISH(message):
            self._publishing.add(channel)
        elif kind == _HEADER and channel in self._publishing:
            self._publishing.remove(channel)
            self._write(Published(time.time(), message_id(message)))


def message_id(header: bytes) -> str:
    """The message id in a content header; "" if it has none."""
    _size, _channel, frame = pamqp.frame.unmarshal(header)
    properties: Any = getattr(frame, "properties", None)
    if not isinstance(properties, Basic.Properties):
        return ""
    return properties.message_id or ""
