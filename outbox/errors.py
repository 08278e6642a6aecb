"""
Every exception that this project raises on purpose.

    OutboxError
    ├── InvalidEvent (ValueError)      an event breaks a rule; raised to the producer
    ├── UnreadableMessage              a row or message cannot be read; it is dead-lettered
    ├── TransactionEndedByHandler      a handler ended its transaction; the attempt fails
    ├── HandlerNotCalledOnce           middleware did not call its handler once; the attempt fails
    ├── LeaseLost                      a lease expired while its handler ran; the attempt fails
    ├── RequestFailed                  a request was given up; raised to its caller
    ├── RequestTimedOut (TimeoutError) no reply came before the deadline; raised to the caller
    ├── DuplicateRequest               another request has the same correlation id
    ├── UnknownRequest                 no request has the correlation id
    ├── ConfigurationError             exit code 2
    │   ├── SchemaMismatch             the database schema or a privilege is wrong
    │   └── TopologyMismatch           an exchange or queue is missing or has other arguments
    ├── BatchesNotEnded                exit code 4 of `relay erase`; consumers work with a key
    ├── ApprovalNeeded                 exit code 5: a second person has to approve an act
    └── Unavailable                    exit code 3 at start; a running process waits and retries
        ├── DatabaseUnavailable        the database is unreachable, or refuses the work for now
        │   └── SessionLost            the database ended one session
        ├── BrokerUnavailable          the broker is unreachable, or refuses the work for now
        └── KeysUnavailable            the source of encryption keys is unreachable for now

Any other exception ends a process with exit code 1.
Messages name fields, settings and codes, never values, so they may be logged.
`transports`, `storage` and `database` translate the errors of drivers where they are raised.
"""

from collections.abc import Sequence


class OutboxError(Exception):
    """The base of all exceptions in this file; it is never raised itself."""


class InvalidEvent(OutboxError, ValueError):  # noqa: N818 - it names a thing, like its siblings
    """
    An event cannot be recorded: *field* breaks the rule that *problem* states.

    Neither text contains the value. Raised when a producer makes or records the event, inside its
    transaction. A row that was written by SQL is checked by the relay, which dead-letters it.
    A process does not end because of it, except for a bad name in MQ_ALLOWED_HEADERS: exit code 1
    for `relay run` and `consumer run`, 2 for the commands on dead letters.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class UnreadableMessage(OutboxError):  # noqa: N818
    """
    A row or a delivery cannot be decoded; *code* is its reason code.

    Raised while relay or consumer decode it. They dead-letter the message and go on, so that no
    process ends because of it.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class TransactionEndedByHandler(OutboxError):  # noqa: N818
    """
    A handler ended the transaction that it was given, or tried to.

    Raised where it commits, and after the handler returns if it has rolled back. The attempt fails
    like any other, and no process ends because of it.
    """


class HandlerNotCalledOnce(OutboxError):  # noqa: N818
    """
    Middleware has not called `call_next`, called it twice or too late, or not waited for it.

    Raised after the middleware returns, or by the second call. The attempt fails like any other,
    and no process ends because of it.
    """


class LeaseLost(OutboxError):  # noqa: N818
    """
    The lease of a message expired before its handler ended, and another process may hold it now.

    Raised by the consumer, which cancels the handler. No process ends because of it.
    """


class RequestFailed(OutboxError):  # noqa: N818
    """
    The consumer of a request gave it up; *code* is the reason code of its dead letter.

    Raised to the caller that waits for the reply. A code that a handler chose with `Reject` comes
    as it is. No process ends because of it.
    """

    def __init__(self, code: str) -> None:
        super().__init__(f"the request was given up: {code}")
        self.code = code


class RequestTimedOut(OutboxError, TimeoutError):  # noqa: N818
    """
    The deadline of a request has passed, by the clock of the caller's database, without a reply.

    A handler may have been called all the same: its reply is stored when it comes, and
    `outbox.replies.get` returns it. Raised to the caller; no process ends because of it.
    """


class DuplicateRequest(OutboxError):  # noqa: N818
    """
    Another request with the same correlation id is recorded, so this one was not.

    Raised to the caller of `outbox.request`; no process ends because of it.
    """


class UnknownRequest(OutboxError):  # noqa: N818
    """
    No request with the correlation id is recorded in this database, or it was purged.

    Raised to a caller that waits for its reply; no process ends because of it.
    """


class ConfigurationError(OutboxError):
    """
    A setting, a command-line option or something that they name cannot work.

    Raised at start or while a command reads its options; the process ends with exit code 2.
    """


class SchemaMismatch(ConfigurationError):  # noqa: N818
    """
    The schema of the database is not the one that this version needs, or a privilege is missing.

    Raised at start, and by every command that opens the database; exit code 2.
    """


class TopologyMismatch(ConfigurationError):  # noqa: N818
    """
    An exchange or queue has other arguments than the declared ones, or does not exist.

    *argument* names one that differs, if it is known. Raised when the topology is declared or
    checked, and when a consumer subscribes; exit code 2.
    """

    def __init__(self, problem: str, *, argument: str | None = None) -> None:
        super().__init__(problem)
        self.argument = argument


class BatchesNotEnded(OutboxError):  # noqa: N818
    """
    Batches of consumers that began before a key was refused, or another erasure, have not ended.

    Raised by `relay erase`, with exit code 4; the key is refused and not destroyed yet.
    """


class ApprovalNeeded(OutboxError):  # noqa: N818
    """
    A second person has to approve an act first; *number* is the request, which is recorded.

    Raised by commands that open bodies while MQ_TWO_PERSON is set; exit code 5.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"request {number} needs the approval of a second person")
        self.number = number


class Unavailable(OutboxError):  # noqa: N818
    """
    The database or the broker cannot be reached, or refuses the work for now.

    At start and in commands the process ends with exit code 3, or with 2 if *refused*: the server
    answered, and refuses the login for a reason that stays until a person acts. Later, relay and
    consumer wait and retry with backoff, and `/readyz` names what they wait for.
    """

    waits_for: Sequence[str] = ("servers",)

    def __init__(
        self, problem: str, *, refused: bool = False, waits_for: Sequence[str] = ()
    ) -> None:
        super().__init__(problem)
        self.refused = refused
        if waits_for:
            self.waits_for = waits_for


class DatabaseUnavailable(Unavailable):
    """
    The database cannot be reached, has no room, or refuses a statement of the process.

    Raised by any access to the database, in place of any error of the driver, with its meaning in
    plain words and its code; exit code 3 at start.
    """

    waits_for = ("database",)


class SessionLost(DatabaseUnavailable):
    """
    The database ended the session in which a message was processed, with its locks.

    Raised by an ordered consumer, which processes the message again; exit code 3 at start.
    """


class BrokerUnavailable(Unavailable):
    """
    The broker cannot be reached, closed the connection or blocks publishers.

    Raised by any access to the broker, in place of the client's error; exit code 3 at start.
    """

    waits_for = ("broker",)


class KeysUnavailable(Unavailable):
    """
    The source of encryption keys, or the key database, cannot be reached for now.

    Raised to a producer that records an event, and by commands; exit code 3 at start. Relay and
    consumer wait.
    """

    waits_for = ("keys",)
