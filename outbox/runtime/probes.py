"""
The HTTP endpoints /livez, /readyz and /metrics, on one port.

The server runs in its own thread, so that it can report a blocked event loop.

    /livez    200 while the event loop runs; 503 after it was blocked for `STALL_SECONDS`
    /readyz   200 while the process can work; 503 with the names of the missing dependencies
    /metrics  Prometheus text format
"""

import asyncio
import errno
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from outbox.errors import ConfigurationError
from outbox.runtime import logs
from outbox.settings import SharedSettings

STALL_SECONDS = 30.0


class Health:
    """Whether the event loop of the process runs, and which dependencies are unavailable."""

    def __init__(self, *needs: str) -> None:
        self._missing = set(needs)
        self._last_beat = time.monotonic()

    def up(self, need: str) -> None:
        """Record that the dependency *need* is available."""
        self._missing.discard(need)

    def down(self, need: str) -> None:
        """Record that the dependency *need* is unavailable."""
        self._missing.add(need)

    def beat(self) -> None:
        """Record that the event loop runs."""
        self._last_beat = time.monotonic()

    @property
    def alive(self) -> bool:
        """Whether the event loop ran in the last `STALL_SECONDS`."""
        return time.monotonic() - self._last_beat < STALL_SECONDS

    @property
    def missing(self) -> list[str]:
        """The dependencies that are unavailable, sorted; empty when the process is ready."""
        return sorted(self._missing)


class _Server(ThreadingMixIn, WSGIServer):
    """Serves each request in a thread, so that a client that hangs delays no other probe."""

    daemon_threads = True


class _NoRequestLog(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log no requests: there may be a probe every second."""


StartResponse = Callable[[str, list[tuple[str, str]]], Any]


def application(health: Health, registry: CollectorRegistry) -> Callable[..., Iterable[bytes]]:
    """Return the WSGI application that answers the three paths."""
    metrics = make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                answered: Iterable[bytes] = metrics(environ, start_response)
                return answered
            case "/livez":
                status, body = _verdict("stalled" if not health.alive else "")
            case "/readyz":
                status, body = _verdict(", ".join(health.missing))
            case _:
                status, body = "404 Not Found", b"/livez /readyz /metrics\n"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [body]

    return answer


def _verdict(problem: str) -> tuple[str, bytes]:
    if problem:
        return "503 Service Unavailable", f"waiting for: {problem}\n".encode()
    return "200 OK", b"ok\n"


@asynccontextmanager
async def serve(
    health: Health, registry: CollectorRegistry, settings: SharedSettings, *, usual_port: int
) -> AsyncIterator[int | None]:
    """
    Serve probes while the block runs; yield the port, or None if MQ_ENABLE_METRICS is false.

    Raises ConfigurationError if the port in MQ_METRICS_PORT is taken, or if the process cannot
    listen on MQ_METRICS_HOST.
    """
    if not settings.enable_metrics:
        yield None
        return
    server = _listen(application(health, registry), settings, usual_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    beating = asyncio.ensure_future(_beat(health))
    logs.get("probes").info(
        "probes_listening", host=settings.metrics_host, port=server.server_port
    )
    try:
        yield server.server_port
    finally:
        beating.cancel()
        await asyncio.to_thread(server.shutdown)
        server.server_close()


def _listen(app: Any, settings: SharedSettings, usual_port: int) -> WSGIServer:
    asked = settings.metrics_port
    host = settings.metrics_host

    def bind(port: int) -> WSGIServer:
        return make_server(host, port, app, server_class=_Server, handler_class=_NoRequestLog)

    try:
        return bind(usual_port if asked is None else asked)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ConfigurationError("MQ_METRICS_HOST: cannot listen on this address") from None
        if asked is not None:
            raise ConfigurationError(f"MQ_METRICS_PORT: port {asked} is taken") from None
        return bind(0)


async def _beat(health: Health) -> None:
    while True:
        health.beat()
        await asyncio.sleep(1)
