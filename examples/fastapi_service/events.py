"""
The events of the service.
"""

from datetime import UTC
from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

UtcTime = Annotated[AwareDatetime, AfterValidator(lambda time: time.astimezone(UTC))]


class HeartRate(BaseModel):
    """A heart rate, as a client sends it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patient: str = Field(min_length=1, max_length=64)
    per_minute: int = Field(ge=1, le=400)
    measured_at: UtcTime


class HeartRateStored(HeartRate):
    event_type: ClassVar[str] = "heart-rate.stored"

    id: UUID


class HeartRateHigh(BaseModel):
    """An alert for the ward."""

    event_type: ClassVar[str] = "heart-rate.high"

    patient: str
    per_minute: int
