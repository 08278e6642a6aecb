"""
The HTTP server of the probes, with bounds for clients that send or read nothing.

Each connection has a thread, so that a client that hangs delays no other probe. A connection
serves one request. When `MOST_CONNECTIONS` are open, the oldest one is closed for each new one, so
that a probe is answered however many clients hang.
"""

import io
import selectors
import socket
import threading
import time
from collections.abc import Callable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

MOST_CONNECTIONS = 32
"""The number of open connections, and of threads."""

REQUEST_SECONDS = 10.0
"""How long a connection may take, from its beginning to the end of the response."""

CHECK_SECONDS = 0.1
"""Seconds between checks of connections, while any is open."""

WsgiApplication = Callable[..., Any]


class ProbeServer(ThreadingMixIn, WSGIServer):
    """Serves each request in a thread, and closes connections that are too many or too old."""

    daemon_threads = True
    # Probes that arrive together with many other clients wait here until they are accepted.
    request_queue_size = 128
    # For a client that is gone before it is accepted.
    timeout = CHECK_SECONDS

    def __init__(self, *arguments: Any, **options: Any) -> None:
        # Before the base class binds: if it cannot, it closes the server.
        self._stop, self._stopping = socket.socketpair()
        self._stopped = threading.Event()
        super().__init__(*arguments, **options)
        # In the order of their beginnings. Each operation on it is atomic in CPython.
        self._open: dict[socket.socket, float] = {}

    def serve_forever(self, poll_interval: float = CHECK_SECONDS) -> None:
        """
        Serve until `shutdown`; checks open connections each *poll_interval* seconds.

        Unlike the loop of the base class it sleeps for as long as no connection is open.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            selector.register(self._stopping, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select(self._timeout(poll_interval))}
                if self._stopping in ready:
                    break
                if self in ready:
                    self.handle_request()
                self.service_actions()
        self._stopped.set()

    def _timeout(self, poll_interval: float) -> float | None:
        return poll_interval if self._open else None

    def shutdown(self) -> None:
        """Stop `serve_forever`, which runs in another thread; returns when it has stopped."""
        self._stop.send(b".")
        self._stopped.wait()

    def server_close(self) -> None:
        """Close the listening socket."""
        super().server_close()
        self._stop.close()
        self._stopping.close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve *request* in a thread; first make room for it."""
        while len(self._open) >= MOST_CONNECTIONS:
            self._end(next(iter(list(self._open)), None))
        self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """End connections that take too long; called after each request or `CHECK_SECONDS`."""
        now = time.monotonic()
        for request, began in list(self._open.items()):
            if now - began > REQUEST_SECONDS:
                self._end(request)

    def shutdown_request(self, request: Any) -> None:
        """Close *request* after its response."""
        self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore the errors of a connection that the client or this server has ended."""

    def _end(self, request: socket.socket | None) -> None:
        """Wake the thread of *request*, which closes it."""
        if request is None:
            return
        self._open.pop(request, None)
        try:
            request.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


class _QuietHandler(WSGIRequestHandler):
    timeout = REQUEST_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log no requests: there may be a probe every second."""

    def get_stderr(self) -> Any:
        """Discard the traceback of a client that ends its connection early."""
        return io.StringIO()


def listen(host: str, port: int, application: WsgiApplication) -> ProbeServer:
    """Listen on *host* and *port*, and answer with *application*; raises OSError."""
    return make_server(
        host, port, application, server_class=ProbeServer, handler_class=_QuietHandler
    )
