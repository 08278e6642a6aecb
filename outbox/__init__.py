"""
The outbox: what a producing service imports.

    async with session.begin():
        session.add(upload)
        outbox.add(session, HealthDataMessage(...))

A producer imports only the files of the first block; in reading order:

    event, health_data, record         an event, the health-upload event, recording them
    session                            sessions that may record
    requests/ request, replies         events that are answered, and their replies
    written_table, written_row         the table that they write to
    exchange, exchange_rules           exchanges and bindings as users declare them
    tables, consumer_tables, audit_tables, reply_table
                                       all tables
    database_time                      times by the clock of the database
    tracing                            their traces in OpenTelemetry
    producer_encryption, producer_compression
                                       whether this process encrypts and compresses what it records
    payload, validation                bodies as bytes, what an event may hold
    autogenerate                       the application's own migrations leave the tables alone
    errors                             every exception that this project raises

    settings, server_settings, url_checks, backoff, schema_name
                                       shared by relay and consumer
    secret_files                       settings in files, as secrets are mounted
    tls_files, certificate_expiry, postgres_tls
                                       certificates and keys, and when they end
    clock_difference                   how far the clock of a server is from ours
    extras                             a setting that needs packages that are not installed
    encryption/ key_store/             encrypted bodies, and their keys
    wire/ database/ transports/        rows and messages, databases, brokers
    runtime/ checks/ dead_letters/ erasure/ key_operations/ cli/
                                       running a process, checks, dead letters, erasing persons,
                                       keys as an operator handles them, shared commands
    testing/                           assertions on recorded events, for tests of producers

Each package names its own files. `outbox` never imports `relay` or `consumer`; the order of its
own files and packages is a contract in pyproject.toml.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from outbox.autogenerate import TABLE_NAMES, include_name, include_object
from outbox.errors import InvalidEvent, OutboxError
from outbox.event import Event, Priority
from outbox.producer_compression import use_compression
from outbox.producer_encryption import use_encryption
from outbox.record import add, insert
from outbox.tables import metadata
from outbox.validation import allow_headers
from outbox.written_table import use_schema

__all__ = [
    "HEALTH_DATA_UPLOADED",
    "TABLE_NAMES",
    "Binding",
    "Event",
    "Exchange",
    "HealthDataMessage",
    "InvalidEvent",
    "OutboxError",
    "Priority",
    "Reply",
    "Request",
    "add",
    "allow_headers",
    "include_name",
    "include_object",
    "insert",
    "metadata",
    "replies",
    "request",
    "request_in",
    "use_compression",
    "use_encryption",
    "use_schema",
]

_MODULES = {
    "Binding": "outbox.exchange",
    "Exchange": "outbox.exchange",
    "HEALTH_DATA_UPLOADED": "outbox.health_data",
    "HealthDataMessage": "outbox.health_data",
    "Reply": "outbox.requests.reply",
    "Request": "outbox.requests.recording",
    "replies": "outbox.replies",
    "request": "outbox.requests.calling",
    "request_in": "outbox.requests.recording",
}
"""The modules of names that are imported when they are used: most producers need none."""

if TYPE_CHECKING:
    from outbox import replies
    from outbox.exchange import Binding, Exchange
    from outbox.health_data import HEALTH_DATA_UPLOADED, HealthDataMessage
    from outbox.requests.calling import request
    from outbox.requests.recording import Request, request_in
    from outbox.requests.reply import Reply

    __version__: str
else:

    def __getattr__(name: str) -> Any:
        """Import a name when it is used: pydantic takes as long as all the rest."""
        if name == "__version__":
            from importlib.metadata import version  # noqa: PLC0415

            return version("outbox-relay")
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(_MODULES[name])
        return module if name == "replies" else getattr(module, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, "__version__"})
