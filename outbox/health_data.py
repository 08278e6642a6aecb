"""
The health-upload event: a file of health records was stored in a bucket.
"""

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
)
from uuid_utils.compat import uuid7

from outbox.errors import InvalidEvent
from outbox.event import Event, Priority

HEALTH_DATA_UPLOADED = "health.data.uploaded"
ROUTING_KEY_PREFIX = "health.processing."

RECORD_TYPE = r"^[A-Za-z][A-Za-z0-9_]*$"
RecordType = Annotated[str, Field(pattern=RECORD_TYPE, max_length=64)]


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("is out of range") from None


_UtcTime = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class HealthDataMessage(BaseModel):
    """
    A stored upload of health records.

    The idempotency key is derived from user, content and upload time, so that an upload that is
    announced twice has one effect. The whole message is the body of its event; the user's id
    appears in no other place. Where persons have keys, the user is the subject of the event.

    Args:
        content_hash: SHA-256 of the file, 64 hexadecimal digits.
        record_type: One word, such as `BloodGlucoseRecord`; part of the routing key.
        upload_timestamp_utc: With a time zone; kept in UTC.
        file_size_bytes: Size of the stored file in bytes.

    Raises InvalidEvent, which names the field and never its value.

    """

    event_type: ClassVar[str] = HEALTH_DATA_UPLOADED
    event_subject: ClassVar[str] = "user_id"

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    bucket: str = Field(min_length=1, max_length=255)
    key: str = Field(min_length=1, max_length=1024)
    user_id: str = Field(min_length=1, max_length=255)
    upload_timestamp_utc: _UtcTime
    record_type: RecordType
    correlation_id: str = Field(
        default_factory=lambda: str(uuid7()), min_length=1, max_length=255, pattern=r"^\S+$"
    )
    message_id: UUID = Field(default_factory=uuid7)
    content_hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    idempotency_key: str = Field(
        default_factory=lambda data: _idempotency_key(data),  # noqa: PLW0108 - defined below
        max_length=255,
        pattern=r"^\S+$",
    )
    processing_priority: Literal["low", "normal", "high"] = "normal"
    file_size_bytes: int = Field(ge=0)
    record_count: int | None = Field(default=None, ge=0)
    health_metadata: dict[str, JsonValue] | None = None

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            first = error.errors(include_input=False, include_context=False, include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "event"
            # A parsing error quotes characters of the value after its comma. The cause is dropped
            # because it holds the whole value.
            parsing = first["type"].endswith("_parsing")
            problem = first["msg"].partition(",")[0] if parsing else first["msg"]
            raise InvalidEvent(field, problem) from None

    def to_event(self) -> Event:
        """Return the upload as an event, routed by record type and priority."""
        return Event(
            HEALTH_DATA_UPLOADED,
            self,
            id=self.message_id,
            routing_key=f"{ROUTING_KEY_PREFIX}{self.record_type.lower()}.{self.processing_priority}",
            idempotency_key=self.idempotency_key,
            correlation_id=self.correlation_id,
            priority=Priority(self.processing_priority),
            occurred_at=self.upload_timestamp_utc,
        )


def _idempotency_key(data: dict[str, Any]) -> str:
    """Return the SHA-256 of type, user, content and upload time; "" if one of them is invalid."""
    try:
        uploaded: datetime = data["upload_timestamp_utc"]
        parts = (HEALTH_DATA_UPLOADED, data["user_id"], data["content_hash"], uploaded.isoformat())
    except KeyError:
        return ""
    return hashlib.sha256(":".join(parts).encode()).hexdigest()
