"""
The HTTP endpoints /livez, /readyz and /metrics, on one port.

The server runs in its own thread, so that it can report a blocked event loop.

    /livez    200 while the event loop runs; 503 after it was blocked for `STALL_SECONDS`
    /readyz   200 while the process can work; 503 with the names of the missing dependencies
    /metrics  Prometheus text format
"""

import asyncio
import errno
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app

from outbox.errors import ConfigurationError
from outbox.runtime import logs
from outbox.runtime.probe_server import ProbeServer, listen
from outbox.settings import SharedSettings

STALL_SECONDS = 30.0
BEAT_SECONDS = 5.0

_WORK = "work"
_CANNOT_LISTEN = "MQ_METRICS_HOST: cannot listen on this address"


class Health:
    """
    Whether the event loop of the process runs, and which dependencies are unavailable.

    Parts of the process may find the same dependency unavailable, each in its own way, so a
    dependency is available when no part (*by*) waits for it. *needs* are those of the work itself.
    """

    def __init__(self, *needs: str) -> None:
        self._missing = {(need, _WORK) for need in needs}
        self._last_beat = time.monotonic()

    def up(self, need: str, *, by: str = _WORK) -> None:
        """Record that the dependency *need* is available."""
        self._missing.discard((need, by))

    def down(self, need: str, *, by: str = _WORK) -> None:
        """Record that the dependency *need* is unavailable."""
        self._missing.add((need, by))

    def waits_for(self, *needs: str) -> None:
        """Record that the work waits for *needs*, and for nothing else."""
        others = {each for each in self._missing if each[1] != _WORK}
        self._missing = others | {(need, _WORK) for need in needs}

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
        # The probes run in another thread, so the set is copied in one step.
        return sorted({need for need, _by in tuple(self._missing)})


StartResponse = Callable[[str, list[tuple[str, str]]], Any]


def application(health: Health, registry: CollectorRegistry) -> Callable[..., Iterable[bytes]]:
    """Return the WSGI application that answers the three paths."""
    metrics = make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                return _metrics(metrics, environ, start_response)
            case "/livez":
                status, body = _verdict("stalled" if not health.alive else "")
            case "/readyz":
                status, body = _verdict(", ".join(health.missing))
            case _:
                status, body = "404 Not Found", b"/livez /readyz /metrics\n"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [body]

    return answer


def _metrics(
    metrics: Callable[..., Iterable[bytes]], environ: dict[str, Any], start_response: StartResponse
) -> Iterable[bytes]:
    try:
        return metrics(environ, start_response)
    except Exception as error:  # noqa: BLE001 - a collector of the application
        logs.get("probes").error("metrics_failed", **logs.describe(error))
        start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
        return [b"a collector failed; see the log\n"]


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
    thread = threading.Thread(target=server.serve_forever, daemon=True)
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


def check_host(settings: SharedSettings) -> None:
    """Raise ConfigurationError if the process could not listen on MQ_METRICS_HOST."""
    if not settings.enable_metrics:
        return
    try:
        # As the server does: the class knows only IPv4.
        with socket.socket(socket.AF_INET) as listening:
            listening.bind((settings.metrics_host, 0))
    except OSError:
        raise ConfigurationError(_CANNOT_LISTEN) from None


def _listen(app: Any, settings: SharedSettings, usual_port: int) -> ProbeServer:
    asked = settings.metrics_port
    host = settings.metrics_host

    def bind(port: int) -> ProbeServer:
        return listen(host, port, app)

    try:
        return bind(usual_port if asked is None else asked)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ConfigurationError(_CANNOT_LISTEN) from None
        if asked is not None:
            raise ConfigurationError(f"MQ_METRICS_PORT: port {asked} is taken") from None
        return bind(0)


async def _beat(health: Health) -> None:
    while True:
        health.beat()
        await asyncio.sleep(BEAT_SECONDS)
