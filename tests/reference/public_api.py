"""
The tables of the public API, from `__all__` of the packages that services import.
"""

import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import consumer
import consumer.testing
import outbox
import outbox.testing
from consumer.handler import Options
from consumer.storage.tables import failing_messages, parked_messages, processed_messages
from outbox import audit_tables, reply_table, tables
from outbox.wire import headers as wire
from tests.reference import markdown
from tests.reference.markdown import code, codes, one_line
from tests.reference.signatures import signature
from tests.reference.source import REPOSITORY, link


def names_of_outbox() -> str:
    """What a producing service imports."""
    return _names(outbox)


def names_of_consumer() -> str:
    """What a service that handles events imports."""
    return _names(consumer)


def names_of_outbox_testing() -> str:
    """What a test of code that records events imports."""
    return _names(outbox.testing)


def names_of_consumer_testing() -> str:
    """What a test of handlers imports."""
    return _names(consumer.testing)


def options() -> str:
    """The options that every kind of handler takes."""
    return "Options of every kind of handler: " + codes(Options.__annotations__) + "."


def columns() -> str:
    """The tables with their columns."""
    rows = [[code(one.name), codes(one.c.keys())] for one in _TABLES]
    return markdown.table(["table", "columns"], rows)


_TABLES = (
    tables.outbox,
    tables.dead_letters,
    audit_tables.audit_log,
    processed_messages,
    parked_messages,
    failing_messages,
    reply_table.replies,
)


def headers() -> str:
    """The headers of the wire format that are the project's own."""
    found = {value for name, value in vars(wire).items() if name.endswith("_HEADER")}
    return "Headers: " + codes(sorted(found)) + "."


def _names(module: ModuleType) -> str:
    rows = [row for name in module.__all__ for row in _rows(name, getattr(module, name))]
    return markdown.table(["name", "what it is", "signature", "defined in"], rows)


def _rows(name: str, value: Any) -> Iterator[list[str]]:
    """The name itself, and the methods of a class that have a docstring."""
    yield _row(name, value)
    for method, member in _members(value) if inspect.isclass(value) else ():
        function = getattr(member, "__func__", member)  # of a class method
        if inspect.isfunction(function) and function.__doc__ and not method.startswith("_"):
            yield _row(f"{name}.{method}", function)


def _members(value: type) -> Iterator[tuple[str, Any]]:
    """The members of a class of ours, and those that it inherits from another class of ours."""
    for each in value.__mro__:
        if each.__module__.partition(".")[0] in {"consumer", "outbox"}:
            yield from vars(each).items()


def _row(name: str, value: Any) -> list[str]:
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        path, meaning, shown = _CONSTANTS[name]
        return [code(name), meaning, code(shown) if shown else "–", link(path)]
    path = str(inspect.getsourcefile(inspect.unwrap(value))).removeprefix(f"{REPOSITORY}/")
    return [code(name), one_line(value.__doc__), _signature(name, value), link(path)]


_CONSTANTS = {
    "HEALTH_DATA_UPLOADED": (
        "outbox/health_data.py",
        "The type of the event that `HealthDataMessage` becomes.",
        repr(outbox.HEALTH_DATA_UPLOADED),
    ),
    "replies": (
        "outbox/replies.py",
        "The module whose `wait` and `get` return the replies to requests.",
        "",
    ),
    "metadata": (
        "outbox/tables.py",
        "The SQLAlchemy `MetaData` of all tables, also those of consumers.",
        "",
    ),
    "TABLE_NAMES": (
        "outbox/autogenerate.py",
        "The names of all tables that `relay migrate` creates, as a `frozenset`.",
        "",
    ),
}


def _signature(name: str, value: Any) -> str:
    if hasattr(value, "__members__"):
        return codes(f"{name}.{member}" for member in value.__members__)
    if hasattr(value, "model_fields"):
        fields = value.model_fields.items()
        given = [key if field.is_required() else f"{key}=…" for key, field in fields]
        return code(f"{name}(*, {', '.join(given)})")
    return code(signature(name, value))
