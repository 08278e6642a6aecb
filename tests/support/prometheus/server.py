"""
A Prometheus server on the loopback, with the configuration and the rules of `deploy/`.

Invariant: only addresses and times differ from those files: it scrapes and evaluates once a
second, and an alert does not wait before it fires.
"""

import asyncio
import json
import shutil
import urllib.request
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import yaml

from tests.support.eventually import eventually
from tests.support.pages import REPOSITORY
from tests.support.processes import ChildProcess
from tests.support.prometheus.programs import Programs
from tests.support.servers.isolation import plain_environment, private_directory
from tests.support.servers.ports import free_port

FOLDER = REPOSITORY / "deploy" / "prometheus"
READY_SECONDS = 20.0
_REQUEST_SECONDS = 10.0
INTERVAL = "1s"


class PrometheusServer:
    """Scrapes *targets*, the ports of each job, while its `async with` lasts."""

    def __init__(self, programs: Programs, targets: Mapping[str, Sequence[int]]) -> None:
        self._directory = private_directory()
        self._url = f"http://127.0.0.1:{free_port()}"
        config = self._directory / "prometheus.yml"
        config.write_text(yaml.safe_dump(_config(targets)))
        (self._directory / "rules.yml").write_text(yaml.safe_dump(_rules()))
        self._process = ChildProcess(
            [
                programs.prometheus,
                f"--config.file={config}",
                f"--storage.tsdb.path={self._directory / 'data'}",
                f"--web.listen-address={self._url.removeprefix('http://')}",
            ],
            log=self._directory / "prometheus.log",
            env=plain_environment(),
            inherit=False,
            cwd=self._directory,
        )

    async def __aenter__(self) -> Self:
        self._process.start()
        await eventually(
            self._is_ready, within=READY_SECONDS, message="Prometheus does not answer"
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    async def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The labels and values of *expression* now."""
        found = await self._get(f"/api/v1/query?{urlencode({'query': expression})}")
        return [(each["metric"], float(each["value"][1])) for each in found["result"]]

    async def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        found = await self._get("/api/v1/alerts")
        return {
            each["labels"]["alertname"] for each in found["alerts"] if each["state"] == "firing"
        }

    async def problems_of_rules(self) -> dict[str, str]:
        """The errors of rules that could not be evaluated, by name."""
        found = await self._get("/api/v1/rules")
        rules = [rule for group in found["groups"] for rule in group["rules"]]
        return {rule["name"]: rule["lastError"] for rule in rules if rule.get("lastError")}

    async def _is_ready(self) -> bool:
        assert self._process.running, self._process.tail
        try:
            await asyncio.to_thread(_read, f"{self._url}/-/ready")
        except OSError:
            return False
        return True

    async def _get(self, path: str) -> Any:
        return json.loads(await asyncio.to_thread(_read, self._url + path))["data"]


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_REQUEST_SECONDS) as response:  # noqa: S310
        body: bytes = response.read()
        return body


def _config(targets: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL}
    for job in config["scrape_configs"]:
        ports = targets[job["job_name"]]
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
    return config


def _rules() -> dict[str, Any]:
    rules: dict[str, Any] = yaml.safe_load((FOLDER / "rules.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
    return rules
