"""
The parsed message: what the listener has to know of a patient, and the fields for the handlers.
"""

import hl7
import hl7.containers
import hl7.util

from examples.hl7_mllp.header import (
    REQUIRED_FIELD_MISSING,
    SEGMENT_SEQUENCE_ERROR,
    Header,
    Refused,
)

# They log values that they cannot unescape.
hl7.util.logger.disabled = True
hl7.containers.logger.disabled = True


def parse(header: Header, message: bytes) -> hl7.Message:
    """The parsed *message*, in the charset that its *header* names. Raises Refused."""
    try:
        return hl7.parse(header.text(message))
    except hl7.HL7Exception:
        raise Refused(SEGMENT_SEQUENCE_ERROR) from None


def patient_of(parsed: hl7.Message) -> str:
    """
    The first identifier of the patient, with the authority that has assigned it.

    Two authorities may give one number to two patients. Raises Refused if there is none.
    """
    patient, authority = field(parsed, "PID", 3), field(parsed, "PID", 3, component=4)
    if not patient:
        raise Refused(REQUIRED_FIELD_MISSING)
    return f"{patient}@{authority}"


def field(
    parsed: hl7.Message, name: str, number: int, *, segment: int = 1, component: int = 1
) -> str:
    """A component of the first repetition, without escape sequences; "" if it is missing."""
    try:
        found = parsed.segments(name)[segment - 1].extract_field(segment, number, 1, component)
    except (KeyError, IndexError):
        return ""
    return str(parsed.unescape(str(found)))
