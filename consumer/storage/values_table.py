"""
Values of many rows, passed to a statement as a table: one statement text for any number of rows.

    Postgres    unnest(:names, :numbers) AS given(name, number)
    SQLite      SELECT value ->> 'name', … FROM json_each(:given)
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql


class ValuesTable:
    """
    A table of values with these *columns*, for databases of this *dialect*.

    On Postgres `parameter_names` are those of the arrays, one for each column in their order.
    """

    def __init__(self, dialect: str, columns: Mapping[str, sa.types.TypeEngine[Any]]) -> None:
        self._columns = tuple(columns)
        self._is_sqlite = dialect == "sqlite"
        self.parameter_names = tuple(f"given_{name}" for name in columns)
        if self._is_sqlite:
            each = sa.func.json_each(sa.bindparam("given", type_=sa.Text)).table_valued("value")
            self.table: sa.FromClause = sa.select(
                *(
                    sa.type_coerce(sa.func.json_extract(each.c.value, f"$.{name}"), kind).label(
                        name
                    )
                    for name, kind in columns.items()
                )
            ).subquery("given")
        else:
            arrays = (
                sa.bindparam(parameter, type_=postgresql.ARRAY(kind))
                for parameter, kind in zip(self.parameter_names, columns.values(), strict=True)
            )
            self.table = (
                sa.func.unnest(*arrays)
                .table_valued(*(sa.column(name, kind) for name, kind in columns.items()))
                .render_derived("given")
            )

    def parameters(self, rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
        """The parameters for *rows*, whose values are in the order of the columns."""
        if not self._is_sqlite:
            arrays = map(list, zip(*rows, strict=True))
            return dict(zip(self.parameter_names, arrays, strict=True))
        plain = [dict(zip(self._columns, map(_plain, row), strict=True)) for row in rows]
        return {"given": json.dumps(plain)}


def _plain(value: Any) -> Any:
    """*value* as JSON has it; a UUID as SQLAlchemy stores it."""
    return value.hex if isinstance(value, UUID) else value
