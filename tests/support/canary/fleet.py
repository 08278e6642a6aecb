"""
The processes of the product with markers, on servers of their own or on files.

A relay gets no keys, and its operators' commands get those of the environment.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support import probes
from tests.support.canary.application import REDACTED
from tests.support.deployment import Deployment
from tests.support.processes import ChildProcess, PreparedProcess

KEYS = "MQ_ENCRYPTION_KEYS"


class Fleet(Deployment):
    """
    Relay and consumers with all logs, spans in a file for each, and producers.

    *keys* is the source of keys of producers and consumers.
    """

    def __init__(self, database_url: str, broker_url: str, directory: Path, *, keys: str) -> None:
        super().__init__(
            database_url,
            broker_url,
            directory,
            MQ_LOG_LEVEL="debug",
            MQ_REDACTED_LOGGERS=json.dumps([REDACTED]),
            MQ_PUBLISH_MAX_ATTEMPTS="2",
            MQ_PUBLISH_RETRY_FIRST_SECONDS="0.1",
            MQ_PUBLISH_RETRY_MAX_SECONDS="0.1",
            MQ_MAX_RETRIES="1",
            MQ_UNSUPPORTED_WAIT_SECONDS="0",
            PYTHONASYNCIODEBUG="1",
        )
        self._keys = keys
        self._begun: set[tuple[str, ...]] = set()

    @property
    def with_keys(self) -> dict[str, str]:
        """The environment of a process that encrypts or decrypts."""
        return {**self.settings, KEYS: self._keys}

    async def canary(self) -> ChildProcess:
        return await self._consumer("canary")

    async def lanes(self) -> ChildProcess:
        return await self._consumer("lanes")

    async def _consumer(self, module: str) -> ChildProcess:
        target = f"tests.support.canary.application:{module}"
        return await self._start("consumer", "run", target, announces="consumer_started")

    def _process(self, command: list[str], log: Path) -> ChildProcess:
        """A new interpreter the first time, whose command line and environment `ps` shows."""
        python, _m, module, *arguments = command
        environment = self.settings if module == "relay" else self.with_keys
        kind = PreparedProcess if tuple(command) in self._begun else ChildProcess
        self._begun.add(tuple(command))
        return kind(
            [python, "-m", "tests.support.canary.program", module, *arguments],
            log=log,
            env={**environment, "SPANS": str(log.with_suffix(".spans"))},
        )

    async def record(self, events: Mapping[str, list[dict[str, Any]]], unsearched: Path) -> None:
        """Record *events* by a producer, which reads them from a file in *unsearched*."""
        self._started += 1
        given = unsearched / f"events-{self._started}.json"
        given.write_text(json.dumps(events))
        producer = PreparedProcess(
            [sys.executable, "-m", "tests.support.canary.producer", str(given)],
            log=self.directory / f"producer-{self._started}.log",
            env=self.with_keys,
        )
        async with producer:
            assert await producer.wait(within=30) == 0, producer.tail


async def metrics(process: ChildProcess) -> bytes:
    """All that the HTTP server of *process* answers."""
    [line] = [each for each in process.output.splitlines() if "probes_listening" in each]
    port = json.loads(line)["port"]
    answers = [await probes.get(port, path) for path in ("/metrics", "/livez", "/readyz")]
    assert all(answers)
    return b"\n".join(answers)
