"""
The management API of RabbitMQ, over HTTP; see `outbox.transports.management`.

Requests are few and small, so the standard library's client in a thread is enough.
"""

import asyncio
import base64
import http.client
import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from yarl import URL

from outbox.certificate_expiry import client_problem, remember_client, remember_expiry
from outbox.clock_difference import ClockDifference, between
from outbox.errors import BrokerUnavailable, ConfigurationError, TopologyMismatch
from outbox.network_errors import CLOSED, blames_client, kind_of
from outbox.tls_files import context_with, load_certificate
from outbox.transports.base import argument_mismatch
from outbox.transports.broker_figures import BrokerFigures
from outbox.transports.management import API, BrokerHealth, PolicyEffect, effects
from outbox.transports.rabbitmq.broker_figures import (
    CONNECTION_COLUMNS,
    NODE_COLUMNS,
    QUEUE_COLUMNS,
    broker_figures,
)
from outbox.transports.routes import (
    Link,
    RouteState,
    RoutingExchange,
    next_exchanges,
    route_states,
)
from outbox.transports.topology import Binding, Topology

ANSWERS_WITHIN_SECONDS = 5.0
SETTLES_WITHIN_SECONDS = 6.0
ASK_AGAIN_SECONDS = 0.5
LIMIT = "x-delivery-limit"
MOST_EXCHANGES = 20
"""Exchanges that are asked for one answer about routes; what lies behind others is unknown."""
WITHOUT_FIGURES = "disable_stats=true&enable_queue_totals=true"
CLOCK_STEP = timedelta(seconds=2)
"""How long a Date header may be behind: it has whole seconds, and is made once a second."""
_NOT_THE_API = "MQ_MANAGEMENT_URL: the answer does not come from RabbitMQ's management API"
_REFUSALS = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}


class RabbitMQManagement:
    """The API at *url*, which holds user and password, for the virtual host *vhost*."""

    def __init__(self, url: URL, *, vhost: str) -> None:
        self._url = url
        self._vhost = vhost
        self._was_api = False
        self._clock: ClockDifference | None = None
        word = f"{url.user or 'guest'}:{url.password or 'guest'}"
        self._authorization = f"Basic {base64.b64encode(word.encode()).decode()}"

    async def policies(self, topology: Topology) -> list[PolicyEffect]:
        clock = asyncio.get_running_loop().time
        deadline = clock() + SETTLES_WITHIN_SECONDS
        found, is_settled = await self._policies(topology)
        while not is_settled and clock() < deadline:
            await asyncio.sleep(ASK_AGAIN_SECONDS)
            found, is_settled = await self._policies(topology)
        return found

    async def _policies(self, topology: Topology) -> tuple[list[PolicyEffect], bool]:
        """
        Return the effects of policies, and whether the figures of all queues are up to date.

        A queue reports its effective policy every 5 seconds. The list without figures names the
        policy at once, but neither its keys nor those of an operator policy.
        """
        listed = await self._get("queues", self._vhost, query=WITHOUT_FIGURES) or []
        names = {each["name"]: each.get("policy") for each in listed}
        found: list[PolicyEffect] = []
        is_settled = True
        for queue in topology.queues:
            if (answer := await self._get("queues", self._vhost, queue.name)) is None:
                continue
            definition = answer.get("effective_policy_definition")
            is_settled &= definition is not None and names.get(queue.name) == answer.get("policy")
            if isinstance(definition, Mapping):
                found += effects(queue.name, _names(answer), definition)
        return found, is_settled

    async def unlike_limits(self, topology: Topology) -> list[TopologyMismatch]:
        found = []
        for queue in topology.queues:
            if (declared := queue.arguments.get(LIMIT)) is None:
                continue
            answer = await self._get("queues", self._vhost, queue.name)
            if answer is not None and answer["arguments"].get(LIMIT) != declared:
                found.append(argument_mismatch("queue", queue.name, LIMIT))
        return found

    async def missing_bindings(self, topology: Topology) -> list[Binding]:
        there: set[Binding] = set()
        for queue in {binding.queue for binding in topology.bindings}:
            there |= await self._bindings(queue)
        return [binding for binding in topology.bindings if binding not in there]

    async def queues(self, prefix: str) -> list[str]:
        answer = await self._get("queues", self._vhost, query="columns=name") or []
        return sorted(each["name"] for each in answer if each["name"].startswith(prefix))

    async def is_bound(self, queue: str, exchange: str) -> bool:
        return any(binding.exchange == exchange for binding in await self._bindings(queue))

    async def routes(self, exchange: str, keys: Collection[str]) -> dict[str, RouteState]:
        if not exchange:  # the default exchange: a queue's name is its only routing key
            return {key: await self._state_of_queue(key) for key in keys}
        found: dict[str, RoutingExchange] = {}
        names = [exchange]  # it grows while it is read
        for name in names:
            if (answer := await self._exchange(name)) is not None:
                found[name] = answer
                further = dict.fromkeys(next_exchanges(answer))
                names += [each for each in further if each not in names]
                del names[MOST_EXCHANGES:]
        return route_states(exchange, keys, found)

    async def _state_of_queue(self, name: str) -> RouteState:
        exists = await self._get("queues", self._vhost, name) is not None if name else False
        return RouteState.BOUND if exists else RouteState.NO_QUEUE

    async def _exchange(self, name: str) -> RoutingExchange | None:
        if (answer := await self._get("exchanges", self._vhost, name)) is None:
            return None
        bindings = await self._get("exchanges", self._vhost, name, "bindings", "source") or []
        return RoutingExchange(
            answer["type"],
            [
                Link(
                    each["routing_key"],
                    each["destination"],
                    to_exchange=each["destination_type"] == "exchange",
                )
                for each in bindings
            ],
            alternate=answer["arguments"].get("alternate-exchange"),
            has_policy=bool(answer.get("policy")),
        )

    async def health(self) -> BrokerHealth:
        status, body = await self._ask("health/checks/alarms")
        if status != HTTPStatus.SERVICE_UNAVAILABLE:
            await self._get("health", "checks", "alarms")  # raises for any other refusal
            return BrokerHealth(clock=self._clock)
        try:
            alarms = json.loads(body)["alarms"]
            listed = [f"{alarm['resource']} on {alarm['node']}" for alarm in alarms]
        except (ValueError, KeyError, TypeError):
            raise BrokerUnavailable(
                f"MQ_MANAGEMENT_URL: the answer has the status {status}", waits_for=[API]
            ) from None
        return BrokerHealth(listed, self._clock)

    async def held(self, topology: Topology) -> dict[str, int]:
        found: dict[str, int] = {}
        for queue in topology.queues:
            answer = await self._get("queues", self._vhost, queue.name) or {}
            if held := answer.get("messages_dlx", 0):
                found[queue.name] = held
        return found

    async def figures(self) -> BrokerFigures:
        overview, queues = await asyncio.gather(
            self._get("overview"), self._get("queues", self._vhost, query=QUEUE_COLUMNS)
        )
        not_shown = []
        nodes = connections = None
        try:
            nodes = await self._get("nodes", query=NODE_COLUMNS)
            connections = await self._get(
                "vhosts", self._vhost, "connections", query=CONNECTION_COLUMNS
            )
        except ConfigurationError:
            # Its other answers have shown that the user is known.
            not_shown.append("memory, disk and connections: the user lacks the tag monitoring")
        return broker_figures(
            overview or {},
            queues=queues or [],
            nodes=nodes,
            connections=connections,
            not_shown=not_shown,
        )

    async def _bindings(self, queue: str) -> set[Binding]:
        answer = await self._get("queues", self._vhost, queue, "bindings") or []
        return {
            Binding(each["source"], queue, each["routing_key"])
            for each in answer
            if not each["arguments"]
        }

    async def _get(self, *path: str, query: str = "") -> Any:
        """Return the answer to one request, or None if there is no such thing."""
        target = "/".join(quote(part, safe="") for part in path)
        status, body = await self._ask(f"{target}?{query}")
        if status == HTTPStatus.NOT_FOUND and await self._is_api():
            return None
        if status in {HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST}:
            raise ConfigurationError(f"{_NOT_THE_API}: write the URL without /api")
        if status in _REFUSALS:
            raise ConfigurationError(
                "MQ_MANAGEMENT_URL: RabbitMQ refuses user or password, or the user lacks the tag "
                "management or a permission in the virtual host"
            )
        if status != HTTPStatus.OK:
            raise BrokerUnavailable(
                f"MQ_MANAGEMENT_URL: the answer has the status {status}", waits_for=[API]
            )
        try:
            return json.loads(body)
        except ValueError:
            raise ConfigurationError(_NOT_THE_API) from None

    async def _is_api(self) -> bool:
        """Whether the URL leads to the API: behind a wrong path nothing exists, either."""
        if not self._was_api:
            status, _ = await self._ask("whoami")
            self._was_api = status == HTTPStatus.OK
        return self._was_api

    async def _ask(self, target: str) -> tuple[int, bytes]:
        try:
            return await asyncio.to_thread(self._request, target)
        except (OSError, http.client.HTTPException) as error:
            server = f"{self._url.host}:{self._url.port}"
            reason = _reason(error, self._url)
            raise BrokerUnavailable(
                f"MQ_MANAGEMENT_URL: cannot connect to {server}: {reason}", waits_for=[API]
            ) from None

    def _request(self, target: str) -> tuple[int, bytes]:
        connection = self._connection()
        try:
            path = f"{self._url.raw_path.rstrip('/')}/api/{target}"
            before = datetime.now(UTC)
            connection.request("GET", path, headers={"Authorization": self._authorization})
            response = connection.getresponse()
            self._clock = _clock(response.getheader("Date"), before)
            return response.status, response.read()
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._url.host or "127.0.0.1", self._url.port
        if self._url.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=ANSWERS_WITHIN_SECONDS)
        context = context_with("MQ_MANAGEMENT_URL: cafile", self._url.query.get("cafile"))
        if certificate := self._url.query.get("certfile"):
            key = self._url.query.get("keyfile")
            load_certificate("MQ_MANAGEMENT_URL: certfile, keyfile", context, certificate, key)
            remember_client("management", certificate)
        remember_expiry("management", context)
        return http.client.HTTPSConnection(
            host, port, timeout=ANSWERS_WITHIN_SECONDS, context=context
        )


def _reason(error: Exception, url: URL) -> str:
    kind = kind_of(error) or "the answer is not HTTP"
    if url.scheme == "http":
        is_other = kind == CLOSED or not kind_of(error)
        return f"{kind}; for a port with TLS use https" if is_other else kind
    found = client_problem("management", datetime.now(UTC)) if blames_client(kind) else None
    return found or kind


def _names(answer: Mapping[str, Any]) -> str:
    """Name the policies that apply to a queue: a user's, an operator's, or both."""
    kinds = {"policy": "policy", "operator_policy": "operator policy"}
    return " or ".join(f"{kind} {answer[key]}" for key, kind in kinds.items() if answer.get(key))


def _clock(date: str | None, before: datetime) -> ClockDifference | None:
    """The difference to the clock that the *date* of an answer shows, asked for at *before*."""
    try:
        server = parsedate_to_datetime(date or "")
        return between(server, before=before, after=datetime.now(UTC), step=CLOCK_STEP)
    except (ValueError, TypeError):  # also of a date without a zone
        return None
