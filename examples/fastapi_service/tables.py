"""
The tables of the service; `migrations/` creates them.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import DateTime, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class StoredHeartRate(Base):
    __tablename__ = "service_heart_rates"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    idempotency_key: Mapped[str] = mapped_column(unique=True)
    patient: Mapped[str]
    per_minute: Mapped[int]
    measured_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class Latest(Base):
    """The latest heart rate of each patient."""

    __tablename__ = "service_latest"

    patient: Mapped[str] = mapped_column(primary_key=True)
    per_minute: Mapped[int]
    measured_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


heart_rates: Table = Base.metadata.tables["service_heart_rates"]
latest: Table = Base.metadata.tables["service_latest"]
