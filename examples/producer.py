"""
A producer that writes its own row and the event about it in one transaction.

After `relay migrate`: `python -m examples.producer`
"""

import asyncio
import hashlib
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import outbox
from examples.database import connect
from outbox import HealthDataMessage


class Base(DeclarativeBase):
    pass


class StoredFile(Base):
    __tablename__ = "stored_files"
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str]


async def main() -> None:
    engine = connect()
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    now = datetime.now(UTC)
    upload = HealthDataMessage(
        bucket="health-uploads",
        key=f"{now:%Y/%m/%d/%H%M%S.%f}.json",
        user_id="user-4711",
        upload_timestamp_utc=now,
        record_type="BloodGlucoseRecord",
        content_hash=hashlib.sha256(b"[]").hexdigest(),
        file_size_bytes=2,
    )
    async with AsyncSession(engine) as session, session.begin():
        session.add(StoredFile(key=upload.key))
        outbox.add(session, upload)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
