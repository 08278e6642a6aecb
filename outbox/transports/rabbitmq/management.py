"""
What the management API of RabbitMQ answers; see `outbox.transports.management`.
"""

import asyncio
import json
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any

from yarl import URL

from outbox.errors import BrokerUnavailable, ConfigurationError, TopologyMismatch
from outbox.transports.base import argument_mismatch
from outbox.transports.broker_figures import BrokerFigures
from outbox.transports.management import (
    API,
    BrokerHealth,
    PolicyEffect,
    effects,
    unwanted,
)
from outbox.transports.rabbitmq.broker_figures import (
    CONNECTION_COLUMNS,
    NODE_COLUMNS,
    QUEUE_COLUMNS,
    broker_figures,
)
from outbox.transports.rabbitmq.management_client import ManagementClient
from outbox.transports.routes import (
    Link,
    RouteState,
    RoutingExchange,
    next_exchanges,
    route_states,
)
from outbox.transports.topology import Binding, ExchangeBinding, Topology, asked_headers

SETTLES_WITHIN_SECONDS = 6.0
ASK_AGAIN_SECONDS = 0.5
LIMIT = "x-delivery-limit"
MOST_EXCHANGES = 20
"""Exchanges that are asked for one answer about routes; what lies behind others is unknown."""
WITHOUT_FIGURES = "disable_stats=true&enable_queue_totals=true"


class RabbitMQManagement:
    """The API at *url*, which holds user and password, for the virtual host *vhost*."""

    def __init__(self, url: URL, *, vhost: str) -> None:
        self._api = ManagementClient(url)
        self._vhost = vhost

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
        listed = await self._api.get("queues", self._vhost, query=WITHOUT_FIGURES) or []
        names = {each["name"]: each.get("policy") for each in listed}
        found: list[PolicyEffect] = []
        is_settled = True
        for queue in topology.queues:
            if (answer := await self._api.get("queues", self._vhost, queue.name)) is None:
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
            answer = await self._api.get("queues", self._vhost, queue.name)
            if answer is not None and answer["arguments"].get(LIMIT) != declared:
                found.append(argument_mismatch("queue", queue.name, LIMIT))
        return found

    async def missing_bindings(self, topology: Topology) -> list[Binding | ExchangeBinding]:
        there: set[Binding | ExchangeBinding] = set()
        for queue in {binding.queue for binding in topology.bindings}:
            there |= await self._bindings(queue)
        for exchange in {binding.destination for binding in topology.exchange_bindings}:
            there |= await self._sources(exchange)
        return [binding for binding in topology.all_bindings if binding not in there]

    async def unwanted_bindings(self, topology: Topology) -> list[Binding]:
        there: set[Binding] = set()
        for queue in topology.queues:
            there |= await self._bindings(queue.name)
        return unwanted(topology, there)

    async def queues(self, prefix: str) -> list[str]:
        answer = await self._api.get("queues", self._vhost, query="columns=name") or []
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
        exists = await self._api.get("queues", self._vhost, name) is not None if name else False
        return RouteState.BOUND if exists else RouteState.NO_QUEUE

    async def _exchange(self, name: str) -> RoutingExchange | None:
        if (answer := await self._api.get("exchanges", self._vhost, name)) is None:
            return None
        bindings = await self._api.get("exchanges", self._vhost, name, "bindings", "source") or []
        return RoutingExchange(
            answer["type"],
            [
                Link(
                    each["routing_key"],
                    each["destination"],
                    each["destination_type"] == "exchange",
                    *asked_headers(each["arguments"]),
                )
                for each in bindings
            ],
            alternate=answer["arguments"].get("alternate-exchange"),
            has_policy=bool(answer.get("policy")),
        )

    async def health(self) -> BrokerHealth:
        status, body = await self._api.ask("health/checks/alarms")
        if status != HTTPStatus.SERVICE_UNAVAILABLE:
            await self._api.get("health", "checks", "alarms")  # raises for any other refusal
            return BrokerHealth(clock=self._api.clock)
        try:
            alarms = json.loads(body)["alarms"]
            listed = [f"{alarm['resource']} on {alarm['node']}" for alarm in alarms]
        except (ValueError, KeyError, TypeError):
            raise BrokerUnavailable(
                f"MQ_MANAGEMENT_URL: the answer has the status {status}", waits_for=[API]
            ) from None
        return BrokerHealth(listed, self._api.clock)

    async def held(self, topology: Topology) -> dict[str, int]:
        found: dict[str, int] = {}
        for queue in topology.queues:
            answer = await self._api.get("queues", self._vhost, queue.name) or {}
            if held := answer.get("messages_dlx", 0):
                found[queue.name] = held
        return found

    async def figures(self) -> BrokerFigures:
        overview, queues = await asyncio.gather(
            self._api.get("overview"), self._api.get("queues", self._vhost, query=QUEUE_COLUMNS)
        )
        not_shown = []
        nodes = connections = None
        try:
            nodes = await self._api.get("nodes", query=NODE_COLUMNS)
            connections = await self._api.get(
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
        answer = await self._api.get("queues", self._vhost, queue, "bindings") or []
        return {
            Binding(each["source"], queue, each["routing_key"], *asked_headers(each["arguments"]))
            for each in answer
        }

    async def _sources(self, exchange: str) -> set[ExchangeBinding]:
        path = ("exchanges", self._vhost, exchange, "bindings", "destination")
        answer = await self._api.get(*path) or []
        return {
            ExchangeBinding(
                each["source"], exchange, each["routing_key"], *asked_headers(each["arguments"])
            )
            for each in answer
        }


def _names(answer: Mapping[str, Any]) -> str:
    """Name the policies that apply to a queue: a user's, an operator's, or both."""
    kinds = {"policy": "policy", "operator_policy": "operator policy"}
    return " or ".join(f"{kind} {answer[key]}" for key, kind in kinds.items() if answer.get(key))
