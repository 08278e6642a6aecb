"""
Free ports on the loopback for private servers.

Invariant: the ports lie below the range that kernels give to outgoing connections
(from 32768 on Linux, from 49152 on macOS).
Otherwise a client that keeps connecting to a stopped server could get that port as its own
source port, connect to itself, and keep the server from starting again.
"""

import random
import socket
from contextlib import ExitStack

FIRST, LAST = 20_000, 31_999


def free_ports(count: int) -> list[int]:
    """Return *count* different ports that nothing on 127.0.0.1 listens on at the moment."""
    ports: list[int] = []
    with ExitStack() as held:
        while len(ports) < count:
            probe = held.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", random.randint(FIRST, LAST)))
            except OSError:
                continue
            ports.append(probe.getsockname()[1])

    return ports


def free_port() -> int:
    """Return one free port, see `free_ports`."""
    return free_ports(1)[0]
