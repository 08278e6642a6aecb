"""
A large bundle is stored as a whole, with all digits, and a subscriber gets its numbered events.
"""

import json

import pytest
import sqlalchemy as sa

from examples.fhir.bundles import InvalidBundle
from examples.fhir.handlers import store, subscriber
from examples.fhir.intake import TRANSACTION_RECEIVED, receive
from examples.fhir.subscription import HIGH_GLUCOSE, NOTIFIED
from examples.fhir.synthetic import transaction
from examples.fhir.tables import metadata, notified, observations, subscribe, subscriptions
from outbox import Event, insert
from outbox.tables import outbox
from tests.examples.serving import database, serving


async def test_large_bundles_are_stored_with_their_digits_and_notified_in_order(
    database_url, tmp_path
):
    large, small = transaction(600, seed=1), transaction(20, seed=2)
    assert len(large) > 250_000

    async with database(database_url, metadata) as app:
        async with app.engine.begin() as connection:
            await subscribe(connection, "Subscription/1", HIGH_GLUCOSE)
        for body in (large, small, small):  # one is posted twice
            await receive(app.engine, body)
        async with serving(store, subscriber, database_url=database_url, directory=tmp_path):
            await app.settled(4)

        stored = await app.rows(sa.select(observations.c.full_url, observations.c.value))
        entries = [
            entry
            for body in (large, small)
            for entry in json.loads(body, parse_float=str)["entry"]
        ]
        assert dict(stored) == {
            entry["fullUrl"]: entry["resource"]["valueQuantity"]["value"] for entry in entries
        }
        assert await app.rows(sa.select(subscriptions.c.events)) == [(62,)]
        numbers = await app.rows(sa.select(notified.c.number).order_by(notified.c.number))
        assert [number for (number,) in numbers] == list(range(1, 63))
        assert await app.reasons() == []


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ((b'"Observation","status"', b'"Observation","state"'), "entry.0.resource.state"),
        ((b'"Observation","status"', b'"Unknown","status"'), "entry.resource.resourceType"),
        ((b'"transaction"', b'"batch"'), "type"),
        ((b"}]}", b"}]"), "no JSON"),
    ],
)
async def test_a_bundle_that_is_invalid_is_refused_by_the_place(sqlite_url, change, place):
    async with database(sqlite_url, metadata) as app:
        with pytest.raises(InvalidBundle) as caught:
            await receive(app.engine, transaction(1, seed=1).replace(*change))

        assert caught.value.place == place
        assert await app.rows(sa.select(outbox)) == []


async def test_a_body_that_another_program_published_is_dead_lettered(sqlite_url, tmp_path):
    """Whatever the library raises for it, no consumer ends or retries for ever."""
    unknown = {
        "resourceType": "Bundle",
        "type": "x",
        "entry": [{"resource": {"resourceType": "X"}}],
    }
    async with database(sqlite_url, metadata) as app:
        async with app.engine.begin() as connection:
            event = Event(NOTIFIED, unknown)
            body = Event(TRANSACTION_RECEIVED, json.dumps(unknown).encode(), content_type="text/x")
            await connection.execute(insert(event, body))
        async with serving(store, subscriber, database_url=sqlite_url, directory=tmp_path):
            await app.settled(2)

        assert sorted(await app.reasons()) == ["bundle_invalid", "schema_unsupported"]
