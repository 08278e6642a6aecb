"""
The event: a window of readings, as a device uploads it.
"""

import hashlib
from typing import ClassVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from outbox import Event


class Reading(BaseModel):
    model_config = ConfigDict(frozen=True)

    at: AwareDatetime
    mg_per_dl: int = Field(ge=20, le=600)


class Upload(BaseModel):
    """
    The readings of one window.

    Args:
        upload_id: The device's own number of this upload; the same when it uploads it again.
        device: A random id. Which person wears the device is known elsewhere.

    """

    event_type: ClassVar[str] = "cgm.window.uploaded"
    model_config = ConfigDict(frozen=True)

    upload_id: int = Field(ge=1)
    device: str = Field(pattern=r"^[a-z0-9-]{1,64}$")
    uploaded_at: AwareDatetime
    readings: tuple[Reading, ...] = Field(min_length=1, max_length=2_000)

    def to_event(self) -> Event:
        """
        An upload that the device repeats has the same key, and one effect.

        Operators of the broker see the key, so it does not show the device.
        """
        key = hashlib.sha256(f"{self.device}/{self.upload_id}".encode()).hexdigest()
        return Event.of(self, idempotency_key=key, occurred_at=self.uploaded_at)
