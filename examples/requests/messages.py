"""
The question and the answer.
"""

from typing import ClassVar

from pydantic import BaseModel, Field


class InteractionsAsked(BaseModel):
    """Which of these *medications* interact?"""

    event_type: ClassVar[str] = "interactions.asked"

    medications: list[str] = Field(min_length=1, max_length=50)


class Interactions(BaseModel):
    """The pairs that interact."""

    pairs: list[tuple[str, str]]
