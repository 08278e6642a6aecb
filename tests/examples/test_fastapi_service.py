"""
A request stores a row and its event together, and the consumer brings it to its effects.
"""

import asyncio
import json

import alembic.command
import alembic.config
import httpx
import pytest
import sqlalchemy as sa

from consumer.testing import App, running
from examples.fastapi_service import handlers
from examples.fastapi_service.app import create_app
from examples.fastapi_service.events import HeartRateStored
from examples.fastapi_service.tables import heart_rates, latest
from outbox.tables import outbox
from tests.support.processes import REPOSITORY

CONFIG = alembic.config.Config(REPOSITORY / "examples" / "fastapi_service" / "alembic.ini")
A_HEART_RATE = {
    "patient": "synthetic-1",
    "per_minute": 140,
    "measured_at": "2026-03-01T09:00:00+01:00",
}


async def migrated(app: App, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Run the migrations of the service."""
    monkeypatch.setenv("MQ_DATABASE_URL", url)
    # In a thread, because env.py runs an event loop of its own.
    await asyncio.to_thread(alembic.command.upgrade, CONFIG, "head")


def client_of(app: App) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(app.engine))
    return httpx.AsyncClient(transport=transport, base_url="http://service")


async def post(client: httpx.AsyncClient, key: str = "k-1", **changed: object) -> httpx.Response:
    headers = {"Idempotency-Key": key, "X-Correlation-ID": "request-1"}
    return await client.post("/heart-rates", json={**A_HEART_RATE, **changed}, headers=headers)


async def count(app: App, table: sa.Table) -> int | None:
    async with app.session() as session:
        return await session.scalar(sa.select(sa.func.count()).select_from(table))


async def test_a_request_has_its_effects_once(database_url, monkeypatch):
    alerts: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        alerts.append(request)
        return httpx.Response(201)

    ward = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://ward")
    async with running(handlers.ward, database=database_url, resources=ward) as app:
        await migrated(app, monkeypatch, database_url)
        await asyncio.to_thread(alembic.command.check, CONFIG)  # nothing to add, nothing to drop
        async with client_of(app) as client:
            first = await post(client)
            again = await post(client)
            other = await post(client, per_minute=80)
            older = await post(client, "k-2", per_minute=70, measured_at="2026-03-01T07:00:00Z")
        drained = await app.drain()

        assert [each.status_code for each in (first, again, other, older)] == [201, 200, 409, 201]
        assert first.json() == again.json()
        assert len(drained.handled) == 3
        app.assert_published(HeartRateStored, correlation_id="request-1", count=2)
        assert await count(app, heart_rates) == 2
        async with app.session() as session:
            assert await session.scalar(sa.select(latest.c.per_minute)) == 140
    (alert,) = alerts
    assert alert.headers["X-Correlation-ID"] == "request-1"
    assert json.loads(alert.content) == {"patient": "synthetic-1", "per_minute": 140}


async def test_an_event_that_breaks_a_rule_is_answered_by_422_and_nothing_is_stored(
    sqlite_url, monkeypatch
):
    async with running(handlers.ward, database=sqlite_url, resources=httpx.AsyncClient()) as app:
        await migrated(app, monkeypatch, sqlite_url)
        async with client_of(app) as client:
            by_event = await post(client, "white space")
            by_body = await post(client, per_minute=0)

        assert by_event.status_code == by_body.status_code == 422
        assert by_event.json()["detail"] == [
            {
                "loc": ["event", "idempotency_key"],
                "msg": "must have no white space or control characters",
                "type": "invalid_event",
            }
        ]
        for table in (heart_rates, outbox):
            assert await count(app, table) == 0
