"""
Why the broker could not be connected to, in words for an operator.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from types import TracebackType

from aiormq import exceptions, spec
from yarl import URL

from outbox.certificate_expiry import client_problem
from outbox.network_errors import CLOSED, blames_client, kind_of

DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}

_NOT_ALLOWED = 530
_FORCED = 320
_NO_LOGIN = "the broker refuses user or password"
_NO_VHOST = "the virtual host does not exist: create it with rabbitmqctl add_vhost"
_NO_RIGHTS = (
    "the user has no rights on the virtual host: grant them with rabbitmqctl set_permissions"
)
_CLOSED_TLS = (
    f"{CLOSED}, as one that demands a certificate of the client does: check certfile and keyfile"
)
_CLOSED_PLAIN = (
    f"{CLOSED}, as a port of TLS or of another protocol does: for one with TLS use amqps"
)
_NO_AMQP = {
    "amqp": "the port does not speak AMQP 0-9-1 without TLS; for one with TLS use amqps",
    "amqps": "the port does not speak AMQP 0-9-1",
}


def address(url: URL) -> str:
    """Return host and port of *url*, for an error message."""
    return f"{url.host or 'localhost'}:{url.port or DEFAULT_PORTS.get(url.scheme, 0)}"


def reason_of_failure(error: BaseException, url: URL) -> tuple[str, bool]:
    """
    Return why the connection to *url* failed, and whether the broker refused the login.

    The broker's text is read for its meaning and dropped: it quotes user and virtual host.
    """
    match error:
        case exceptions.ProbableAuthenticationError():
            return _NO_LOGIN, True
        case exceptions.AuthenticationError():
            return "the broker offers no login with user and password", True
        case exceptions.ProtocolSyntaxError() | exceptions.ConnectionClosed():
            close = next(_close_frames(error), None)
            return _of_close(close) if close else (_NO_AMQP[url.scheme], False)
        case exceptions.IncompatibleProtocolError():
            return _NO_AMQP[url.scheme], False
        case StopAsyncIteration():  # the end of the connection, in the words of aiormq
            return _of_network(CLOSED, url.scheme), False
    kind = kind_of(error) or f"the connection was lost ({type(error).__name__})"
    return _of_network(kind, url.scheme), False


def _of_network(kind: str, scheme: str) -> str:
    """
    Return the reason for a failure of this *kind* in the network.

    With TLS 1.3 a server refuses the client's certificate only when the client has done its part,
    and its reason may not arrive before the end of the connection.
    """
    if scheme == "amqp":
        return _CLOSED_PLAIN if kind == CLOSED else kind
    found = client_problem("broker", datetime.now(UTC)) if blames_client(kind) else None
    return found or (_CLOSED_TLS if kind == CLOSED else kind)


def _of_close(close: spec.Connection.Close) -> tuple[str, bool]:
    code, text = close.reply_code, close.reply_text
    if code == _FORCED:
        return "the broker is shutting down", False
    if code != _NOT_ALLOWED:
        return f"the broker closed the connection ({code})", False
    if "not found" in text:
        return _NO_VHOST, True
    if "limit" in text:
        return "the limit of connections to the virtual host, or of this user, is reached", False
    if "down" in text:
        return "the virtual host is down", False
    return _NO_RIGHTS, True


def _close_frames(error: BaseException) -> Iterator[spec.Connection.Close]:
    """
    The broker's last frame, in which it says why it closes the connection.

    aiormq keeps neither code nor text of it in its InvalidFrameError: only the variable of the
    function that raised it has the frame.
    """
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame.f_locals.get("frame")
        if isinstance(frame, spec.Connection.Close):
            yield frame
        trace = trace.tb_next
