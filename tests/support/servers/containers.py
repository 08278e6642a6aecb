"""
Servers in Docker containers, where an engine answers.

Invariants:

- testcontainers is imported only when an engine is likely, because the import takes long.
- The published ports are fixed, so that clients find a restarted server where it was.
- testcontainers' own reaper removes the containers if the tests die.
"""

import asyncio
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.servers.instance import AdministrationError

SIGNS_OF_AN_ENGINE = (
    Path("/var/run/docker.sock"),
    Path.home() / ".docker" / "run" / "docker.sock",
    Path.home() / ".testcontainers.properties",
)
STOP_SECONDS = 20


class ContainerError(Exception):
    """The engine answers, but does not run the image."""


@functools.cache
def engine_answers() -> bool:
    """Whether a Docker engine answers a ping; asked once."""
    if "DOCKER_HOST" not in os.environ and not any(sign.exists() for sign in SIGNS_OF_AN_ENGINE):
        return False
    try:
        import docker  # type: ignore[import-untyped] # noqa: PLC0415
        import testcontainers.core.container  # noqa: F401, PLC0415
    except ImportError:
        return False
    try:
        client = docker.from_env(timeout=3)
    except (docker.errors.DockerException, OSError):
        return False
    client.close()  # creating the client asks for the engine's version, which is the ping

    return True


class ContainerInstance:
    """
    One container.

    Args:
        ports: the port on the host for each port in the container.
    """

    stoppable = True

    def __init__(
        self,
        image: str,
        *,
        ports: Mapping[int, int],
        env: Mapping[str, str],
        command: Sequence[str] = (),
    ) -> None:
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415

        self._container = DockerContainer(image, env=dict(env))
        for inside, outside in ports.items():
            self._container.with_bind_ports(inside, outside)
        if command:
            self._container.with_command(list(command))
        self._created: Any = None

    def address(self, port: int) -> str:
        """Return host and port at which *port* of the launched container is reached."""
        return (
            f"{self._container.get_container_host_ip()}:{self._container.get_exposed_port(port)}"
        )

    @property
    def running(self) -> bool:
        if self._created is None:
            return False
        self._created.reload()
        return bool(self._created.status == "running")

    @property
    def tail(self) -> str:
        return self._created.logs(tail=30).decode(errors="replace") if self._created else ""

    @property
    def log(self) -> bytes:
        return bytes(self._created.logs()) if self._created else b""

    def launch(self) -> None:
        from docker.errors import (  # type: ignore[import-untyped] # noqa: PLC0415
            DockerException,
        )

        if self.running:
            return
        if self._created is not None:
            self._created.start()
            return
        try:
            self._created = self._container.start().get_wrapped_container()
        except (DockerException, OSError) as error:
            self.close()
            raise ContainerError(str(error)) from error

    async def stop(self) -> None:
        await asyncio.to_thread(self._created.stop, timeout=STOP_SECONDS)

    async def kill(self) -> None:
        await asyncio.to_thread(self._created.kill)

    async def administer(self, program: str, *arguments: str) -> None:
        code, output = await asyncio.to_thread(self._created.exec_run, [program, *arguments])
        if code:
            raise AdministrationError(f"{program}: {output.decode(errors='replace')}")

    def close(self) -> None:
        self._container.stop()
