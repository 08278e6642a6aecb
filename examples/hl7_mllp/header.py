"""
The segment MSH of a message, and the acknowledgement that answers it: pure.

Only what the listener has to know is read here. The handlers parse the whole message.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Self
from urllib.parse import quote

SEGMENT_END = re.compile(r"\r\n?|\n")
"""The standard wants CR; many senders write CRLF or LF."""

_CHARSETS = {
    "": "latin-1",  # ASCII by the standard, and Latin-1 by many senders that do not say so
    "ASCII": "latin-1",
    "8859/1": "latin-1",
    "8859/15": "iso8859-15",
    "UNICODE": "utf-8",
    "UNICODE UTF-8": "utf-8",
}


class Refused(Exception):  # noqa: N818
    """The sender must not send the message again: *code* is one of HL7 table 0357."""

    def __init__(self, code: int) -> None:
        super().__init__(f"HL7 error {code}")
        self.code = code


SEGMENT_SEQUENCE_ERROR = 100
REQUIRED_FIELD_MISSING = 101
UNSUPPORTED_MESSAGE_TYPE = 200
TABLE_VALUE_NOT_FOUND = 103
DUPLICATE_KEY = 205
INTERNAL_ERROR = 207


@dataclass(frozen=True, slots=True)
class Header:
    """
    The fields of MSH, with the separators of the message.

    Args:
        kind: Message type and trigger event, such as `ORU^R01`.

    """

    separator: str = "|"
    encoding: str = "^~\\&"
    application: str = ""
    facility: str = ""
    receiver: tuple[str, str] = ("", "")
    kind: str = ""
    control_id: str = ""
    processing_id: str = "P"
    version: str = "2.5.1"
    charset: str = ""

    @classmethod
    def of(cls, message: bytes) -> Self:
        """The header of *message*; fields that are missing are empty. Raises Refused."""
        line, *_ = SEGMENT_END.split(message.decode("latin-1"), maxsplit=1)
        if not line.startswith("MSH") or len(line) < 9:
            raise Refused(SEGMENT_SEQUENCE_ERROR)
        separator = line[3]
        # MSH-1 is the separator itself, so MSH-2 is the first part behind the name.
        parts = [*line.split(separator), *[""] * 18]
        encoding = parts[1]
        if not 4 <= len(encoding) <= 5 or len({separator, *encoding}) <= len(encoding):
            raise Refused(SEGMENT_SEQUENCE_ERROR)
        kind = parts[8].split(encoding[:1] or "^")
        return cls(
            separator,
            encoding,
            application=parts[2],
            facility=parts[3],
            receiver=(parts[4], parts[5]),
            kind="^".join(kind[:2]),
            control_id=parts[9],
            processing_id=parts[10],
            version=parts[11],
            charset=parts[17].partition(encoding[1:2] or "~")[0],
        )

    @property
    def sender(self) -> str:
        """The system whose control ids are unique, without white space."""
        return f"{quote(self.facility, safe='^')}/{quote(self.application, safe='^')}"

    def text(self, message: bytes) -> str:
        """The *message* in the charset of MSH-18, its segments ended by CR. Raises Refused."""
        charset = _CHARSETS.get(self.charset)
        if charset is None:
            raise Refused(TABLE_VALUE_NOT_FOUND)
        try:
            return SEGMENT_END.sub("\r", message.decode(charset)).strip("\r") + "\r"
        except UnicodeDecodeError:
            raise Refused(TABLE_VALUE_NOT_FOUND) from None

    def acknowledgement(
        self, code: Literal["AA", "AE", "AR"], *, error: int = 0, now: datetime | None = None
    ) -> bytes:
        """The answer to the message of this header, in the separators of its sender."""
        component = self.encoding[:1]
        kind = component.join(["ACK", *self.kind.split("^")[1:], "ACK"])
        time = f"{now or datetime.now(UTC):%Y%m%d%H%M%S}+0000"
        route = [*self.receiver, self.application, self.facility]
        own = [f"ack-{self.control_id}"[:199], self.processing_id, self.version]
        segments = [
            ["MSH", self.encoding, *route, time, "", kind, *own],
            ["MSA", code, self.control_id],
        ]
        if error:
            segments.append(["ERR", "", "", str(error), "E"])
        text = "".join(self.separator.join(segment) + "\r" for segment in segments)
        return text.encode("latin-1")
