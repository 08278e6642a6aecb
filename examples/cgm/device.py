"""
Synthetic devices: `python -m examples.cgm.device` records a day of their uploads.

A device takes a reading every five minutes and uploads the last three hours each hour. Where an
acknowledgement is lost, it uploads a window again; and its algorithm still corrects the latest
readings, so that the next window has other values for the same times.
"""

import asyncio
import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import outbox
from examples.cgm.upload import Reading, Upload
from examples.database import connect

INTERVAL = timedelta(minutes=5)
WINDOW = timedelta(hours=3)
DAY = datetime(2026, 3, 1, tzinfo=UTC)
PER_DAY = timedelta(days=1) // INTERVAL


def day_of_uploads(device: str, *, seed: int, start: datetime = DAY) -> Iterator[Upload]:
    """The uploads of *device* in the 24 hours from *start*; every fifth one is repeated."""
    chance = random.Random(seed)
    values = _day_of_values(chance)
    for hour in range(1, 25):
        end = hour * 12
        first = max(0, end - WINDOW // INTERVAL)
        readings = [
            Reading(at=start + at * INTERVAL, mg_per_dl=values[at]) for at in range(first, end)
        ]
        if hour < 24:
            raw = readings[-1].mg_per_dl + chance.choice([-9, -4, 4, 9])
            readings[-1] = readings[-1].model_copy(update={"mg_per_dl": raw})
        upload = Upload(
            upload_id=hour,
            device=device,
            uploaded_at=start + end * INTERVAL,
            readings=tuple(readings),
        )
        yield upload
        if hour % 5 == 0:
            yield upload


def _day_of_values(chance: random.Random) -> list[int]:
    """A day's values: a basal level, three meals, and noise."""
    meals = [(8.0, 70), (13.0, 90), (19.0, chance.choice([80, 150]))]

    def value(hour: float) -> float:
        rises = (
            height * since * math.exp(1 - since)
            for at, height in meals
            if (since := hour - at) > 0
        )
        return 85 + 25 * math.sin(hour / 24 * math.tau) + sum(rises) + chance.gauss(0, 4)

    return [max(40, min(400, round(value(at / 12)))) for at in range(PER_DAY)]


async def record(engine: AsyncEngine, uploads: Iterator[Upload]) -> None:
    """Record each of *uploads* in a transaction of its own, as a gateway of devices would."""
    for upload in uploads:
        async with AsyncSession(engine) as session, session.begin():
            outbox.add(session, upload)


async def main() -> None:
    engine = connect()
    await record(engine, day_of_uploads("device-1", seed=1))
    await record(engine, day_of_uploads("device-2", seed=2))
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
