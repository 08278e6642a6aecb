"""
The server of the probes, while many clients send nothing, too slowly, or do not read.
"""

import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry, Gauge

from outbox.runtime import probe_server, probes
from outbox.runtime.probe_server import MOST_CONNECTIONS, ProbeServer, listen

MANY = 200
SOON = 5.0


class FailingCollector:
    def collect(self) -> Iterator[Gauge]:
        raise RuntimeError


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def server(registry) -> Iterator[ProbeServer]:
    health = probes.Health()
    server = listen("127.0.0.1", 0, probes.application(health, registry))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def connect(server: ProbeServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.server_port), timeout=SOON)


def read(server: ProbeServer, path: str = "/livez") -> tuple[int, bytes]:
    with urlopen(f"http://127.0.0.1:{server.server_port}{path}", timeout=SOON) as answer:
        return answer.status, answer.read()


def threads() -> int:
    return threading.active_count()


def test_a_probe_is_answered_while_many_clients_send_nothing(server):
    before = threads()
    with ExitStack() as clients:
        for number in range(MANY):
            client = clients.enter_context(connect(server))
            if number % 2:
                client.sendall(b"GET /livez HTTP/1.1\r\nHost: ")

        began = time.monotonic()
        answers = [read(server) for _ in range(5)]

        assert answers == [(200, b"ok\n")] * 5
        assert time.monotonic() - began < SOON
        assert threads() - before <= MOST_CONNECTIONS + 5


def test_a_client_that_sends_or_reads_nothing_is_closed_after_a_while(
    server, registry, monkeypatch
):
    monkeypatch.setattr(probe_server, "REQUEST_SECONDS", 0.2)
    gauge = Gauge("filler", "Fills the buffers of a connection.", ["n"], registry=registry)
    for number in range(20_000):
        gauge.labels(f"{number:0100}").set(number)
    before = threads()
    silent, slow, deaf = (connect(server) for _ in range(3))
    slow.sendall(b"GET /livez HTTP/1.1\r\n")
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")

    for client in (silent, slow):
        assert client.recv(1) == b""
    deadline = time.monotonic() + SOON
    while threads() > before and time.monotonic() < deadline:
        deaf.settimeout(SOON)
        threading.Event().wait(0.01)

    assert threads() == before
    for client in (silent, slow, deaf):
        client.close()


def test_a_server_without_connections_sleeps_until_the_next_one(registry, monkeypatch):
    waits: list[float | None] = []

    class Selector(selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            waits.append(timeout)
            return super().select(timeout)

    monkeypatch.setattr(probe_server.selectors, "DefaultSelector", Selector)
    server = listen("127.0.0.1", 0, probes.application(probes.Health(), registry))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    with connect(server):
        deadline = time.monotonic() + SOON
        while 0.01 not in waits and time.monotonic() < deadline:
            threading.Event().wait(0.01)
    assert read(server) == (200, b"ok\n")
    while waits[-1] is not None and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    server.shutdown()
    server.server_close()
    thread.join()

    assert waits[0] is None
    assert 0.01 in waits
    assert waits[-1] is None


def test_a_port_that_is_taken_is_an_error_of_the_socket(server, registry):
    with pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", server.server_port, probes.application(probes.Health(), registry))


def test_a_collector_that_raises_is_an_answer_and_a_log_line(server, registry, capsys):
    registry.register(FailingCollector())  # type: ignore[arg-type]

    with connect(server) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        answer = client.recv(100)

    assert b" 500 " in answer
    assert read(server) == (200, b"ok\n")
    assert "Traceback" not in capsys.readouterr().err
