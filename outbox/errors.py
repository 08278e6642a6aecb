"""
Every exception that this project raises on purpose.

    OutboxError
    ├── InvalidEvent (ValueError)      an event that must not enter the outbox
    ├── UnreadableMessage              a row or a message that is not what it should be
    ├── TransactionEndedByHandler      a handler rolled back what it must not
    ├── LeaseLost                      a message was taken over while its handler worked
    ├── ConfigurationError             settings that cannot work; exit status 2
    │   ├── SchemaMismatch             the database is not migrated to this version
    │   └── TopologyMismatch           the broker's queues are not the ones declared here
    └── Unavailable                    a server cannot be reached; heals by itself
        ├── DatabaseUnavailable
        │   └── SessionLost            its session was ended, and it may be there
        └── BrokerUnavailable

Messages name fields, settings and codes, never values: what is raised here may be logged.
Errors of drivers stop where they enter, in `transports`, `storage` and `runtime`.
"""


class OutboxError(Exception):
    """Something went wrong in the outbox."""


class InvalidEvent(OutboxError, ValueError):  # noqa: N818 - it names a thing, like its siblings
    """
    An event cannot be recorded: *field* is wrong in the way that *problem* says.

    Neither text contains the value.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class UnreadableMessage(OutboxError):  # noqa: N818
    """A stored or delivered message cannot be understood; *code* is a reason code."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class TransactionEndedByHandler(OutboxError):  # noqa: N818
    """A handler has rolled back its transaction, and with it the record that it was called."""


class LeaseLost(OutboxError):  # noqa: N818
    """A lease was over before its handler had ended, and another may have it now."""


class ConfigurationError(OutboxError):
    """The settings, or what they point at, cannot work."""


class SchemaMismatch(ConfigurationError):  # noqa: N818
    """The database schema is not the one that this version works with."""


class TopologyMismatch(ConfigurationError):  # noqa: N818
    """
    An exchange or queue exists with other arguments than the declared ones, or not at all.

    *argument* is the name of one that differs, if that is known.
    """

    def __init__(self, problem: str, *, argument: str | None = None) -> None:
        super().__init__(problem)
        self.argument = argument


class Unavailable(OutboxError):  # noqa: N818
    """A server cannot be reached at the moment."""


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached, or ended the session."""


class SessionLost(DatabaseUnavailable):
    """The database has ended the session of an attempt, and with it what the session held."""


class BrokerUnavailable(Unavailable):
    """The broker cannot be reached, or ended the connection."""
