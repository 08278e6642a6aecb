"""
Points in time by the clock of the database, so that the clocks of other machines do not matter.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time: timestamptz on Postgres, ISO text in UTC with microseconds on SQLite."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        del dialect
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Any:
        # Postgres drivers already return aware datetimes, and the relay reads many of them.
        if dialect.name == "postgresql":
            return None
        parsed = super().result_processor(dialect, coltype)
        return None if parsed is None else partial(_time_or_epoch, parsed)


def _time_or_epoch(parsed: Callable[[Any], datetime | None], value: Any) -> datetime | None:
    """Return the time that SQLite stores as *value*, or 1970 if it is no time."""
    try:
        return parsed(value)
    except (TypeError, ValueError, OverflowError):
        return datetime(1970, 1, 1, tzinfo=UTC)


class database_now(FunctionElement[datetime]):  # noqa: N801 - it reads as the SQL function it is
    """The database's clock when it is evaluated, not when the transaction began."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(database_now, "postgresql")
def _now_on_postgres(_element: Any, _compiler: Any, **_options: Any) -> str:
    return "clock_timestamp()"


@compiles(database_now, "sqlite")
def _now_on_sqlite(_element: Any, _compiler: Any, **_options: Any) -> str:
    # Six digits, as SQLAlchemy stores them: times are compared as text.
    return "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))"


class now_plus(FunctionElement[datetime]):  # noqa: N801
    """The database's clock plus a number of seconds, given as its one argument."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(now_plus, "postgresql")
def _later_on_postgres(element: Any, compiler: Any, **options: Any) -> str:
    seconds = compiler.process(element.clauses, **options)
    return f"(clock_timestamp() + make_interval(secs => {seconds}))"


@compiles(now_plus, "sqlite")
def _later_on_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    seconds = compiler.process(element.clauses, **options)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', ({seconds}) || ' seconds')"
