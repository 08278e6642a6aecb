"""
What a relay without rows sends to the database, counted in statements.
"""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from outbox.database.engine import create_engine
from relay.storage.postgres_notify import PostgresWakeup
from tests.integration.test_two_loops import SlowBroker, add, at_work, sends
from tests.support.builders import an_event
from tests.support.eventually import eventually
from tests.support.query_plans import Statement, recorded

OFTEN = timedelta(milliseconds=5)


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(make_url(postgres_url), pool_size=20, application_name="test")
    yield engine
    await engine.dispose()


class Calls:
    """Counts the calls of a method of the wake-up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
        self.count = 0
        real = getattr(PostgresWakeup, method)

        async def counted(wakeup: PostgresWakeup) -> bool:
            self.count += 1
            return await real(wakeup)

        monkeypatch.setattr(PostgresWakeup, method, counted)

    async def more(self, count: int) -> None:
        """Wait for *count* more calls."""
        enough = self.count + count
        await eventually(lambda: self.count >= enough)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The looks of a relay for rows of which nothing has notified it."""
    return Calls(monkeypatch, "has_missed")


async def is_idle(engine: AsyncEngine, looks: Calls) -> bool:
    """Whether a relay has sent nothing but looks during twenty of them."""
    with recorded(engine) as statements:
        await looks.more(20)
    return not statements


async def add_silently(engine: AsyncEngine) -> None:
    """Commit an event without the trigger that notifies, as rows that another relay releases."""
    async with engine.begin() as connection:
        await connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        await connection.execute(outbox.insert(an_event(type="silent")))


async def test_an_idle_relay_looks_with_one_statement_and_claims_nothing(engine, looks):
    async with at_work(engine, SlowBroker(), longest=OFTEN):
        # After an event it claims until no row is left.
        await eventually(lambda: is_idle(engine, looks))

        assert await is_idle(engine, looks)


async def test_a_row_without_a_notification_is_published_at_the_next_look(engine, looks):
    broker = SlowBroker()
    async with at_work(engine, broker, longest=OFTEN):
        await looks.more(2)

        await add_silently(engine)

        await sends(broker, 1)
        assert broker.sent == ["silent"]


async def test_an_event_takes_one_claim_and_one_settlement_and_then_a_look(
    engine, looks, monkeypatch
):
    broker = SlowBroker()
    async with at_work(engine, broker, longest=OFTEN):
        await eventually(lambda: is_idle(engine, looks))
        # Else a look at the moment of the commit adds a claim to that of the notification.
        monkeypatch.setattr(PostgresWakeup, "has_missed", nothing_missed)
        with recorded(engine) as statements:
            await add(engine, an_event())
            await sends(broker, 1)
            await eventually(lambda: "DELETE" in kinds(statements))
            looks = Calls(monkeypatch, "has_missed")
            await looks.more(20)

        assert kinds(statements) == ["INSERT", "SELECT", "DELETE"]


async def nothing_missed(_wakeup: PostgresWakeup) -> bool:
    return False


def kinds(statements: list[Statement]) -> list[str]:
    """The first word of each statement, without those that set up a new session of the pool."""
    return [text.split()[0] for text, _ in statements if "set_config" not in text]
