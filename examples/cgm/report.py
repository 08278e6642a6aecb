"""
A table of hours for each device: `python -m examples.cgm.report`.

The ranges are those of the international consensus on time in range: below 54 very low, below 70
low, 70 to 180 mg/dL in range, above 180 high, above 250 very high.
"""

import asyncio
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import median

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy.ext.asyncio import AsyncEngine

from examples.cgm.tables import readings
from examples.database import connect

HOUR = 3_600
LIMITS = (54, 70, 181, 251)
RANGES = ("very low", "low", "in range", "high", "very high")
COLOURS = ("red", "yellow", "green", "yellow", "red")
EXPECTED_IN_HOUR = 12
BAR = 24


def range_of(mg_per_dl: int) -> str:
    return RANGES[bisect_right(LIMITS, mg_per_dl)]


def shares(values: Sequence[int]) -> dict[str, float]:
    """The share of *values* in each range, which add up to 1."""
    counts = Counter(map(range_of, values))
    return {name: counts[name] / len(values) for name in RANGES}


async def values_by_hour(engine: AsyncEngine) -> dict[str, dict[datetime, list[int]]]:
    """The readings of each device, by hours in UTC."""
    columns = (readings.c.device, readings.c.at_seconds, readings.c.mg_per_dl)
    found: dict[str, dict[datetime, list[int]]] = defaultdict(lambda: defaultdict(list))
    async with engine.connect() as connection:
        for device, at, value in await connection.execute(sa.select(*columns).order_by(*columns)):
            hour = datetime.fromtimestamp(at // HOUR * HOUR, UTC)
            found[device][hour].append(value)
    return found


def table(device: str, hours: dict[datetime, list[int]]) -> Table:
    """The *hours* of *device*, with a bar of the ranges for each."""
    values = [value for found in hours.values() for value in found]
    in_range = shares(values)["in range"]
    drawn = Table(title=f"{device}: {in_range:.0%} in range, {len(values)} readings")
    for heading in ("hour (UTC)", "readings", "median mg/dL", "ranges"):
        drawn.add_column(heading, justify="left" if heading == "ranges" else "right")
    for hour, found in sorted(hours.items()):
        count = f"{len(found)} of {EXPECTED_IN_HOUR}"
        drawn.add_row(f"{hour:%Y-%m-%d %H}", count, f"{median(found):.0f}", bar(found))
    return drawn


def bar(values: Sequence[int]) -> Text:
    """*values* from low to high, as cells in the colours of their ranges."""
    ordered = sorted(values)
    cells = (ordered[cell * len(ordered) // BAR] for cell in range(BAR))
    signs = ((range_of(value), COLOURS[bisect_right(LIMITS, value)]) for value in cells)
    return Text.assemble(*((_SIGNS[name], colour) for name, colour in signs))


# So that the bar can be read without colours, too.
_SIGNS: dict[str, str] = dict(zip(RANGES, "▁▂▄▆█", strict=True))


async def main() -> None:
    engine = connect()
    console = Console()
    for device, hours in (await values_by_hour(engine)).items():
        console.print(table(device, hours))
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
