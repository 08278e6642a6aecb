"""
When a process that has nothing to do is not ready because its database does not answer.
"""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from outbox.database import migrate
from outbox.database.location import Location
from outbox.database.verification import Expectation
from outbox.errors import DatabaseUnavailable, SchemaMismatch
from outbox.runtime import logs
from outbox.runtime.probes import Health
from outbox.runtime.process import Availability
from outbox.runtime.schema_monitor import SchemaMonitor


class Checked:
    """A monitor of a database that answers with *error*, or as it must."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.now = 0.0
        self.now_found = Location("public", migrate.head())
        self.health = Health("broker")
        self.registry = CollectorRegistry()
        self.monitor = SchemaMonitor(
            cast("Expectation", SimpleNamespace(verify_again=self.verify_again)),
            cast("Any", None),
            cast("Any", None),
            self.health,
            Availability(logs.get("test"), self.registry),
            clock=lambda: self.now,
        )

    async def verify_again(self, _engine: Any, _found: Any, *, register: bool) -> Location:
        assert register
        if self.error is not None:
            raise self.error
        return self.now_found

    async def after(self, seconds: float, error: Exception | None = None) -> list[str]:
        """The dependencies that are missing after a check *seconds* later."""
        self.now += seconds
        self.error = error
        await self.monitor.check()
        return self.health.missing


@pytest.fixture
def checked() -> Checked:
    return Checked()


LOST = DatabaseUnavailable("no answer")


async def test_a_database_that_does_not_answer_for_15_seconds_makes_the_process_unready(checked):
    assert await checked.after(5) == ["broker"]
    assert await checked.after(5, LOST) == ["broker"]
    assert await checked.after(5, LOST) == ["broker"]
    assert await checked.after(5, LOST) == ["broker", "database"]
    assert await checked.after(5) == ["broker"]


async def test_one_check_that_waits_for_long_is_as_good_as_several(checked):
    assert await checked.after(5) == ["broker"]
    assert await checked.after(25, LOST) == ["broker", "database"]


async def test_a_check_that_succeeds_says_nothing_about_the_work(checked):
    """The database may answer and still refuse the work, for instance on a full disk."""
    checked.health.down("database")

    assert await checked.after(30, LOST) == ["broker", "database"]
    assert await checked.after(5) == ["broker", "database"]


async def test_the_work_waits_for_a_schema_that_is_refused(checked):
    assert await checked.after(5, SchemaMismatch("a view")) == ["broker", "schema"]

    with pytest.raises(DatabaseUnavailable) as refused:
        checked.monitor.gate.check()

    assert list(refused.value.waits_for) == ["schema"]
    assert await checked.after(5) == ["broker"]


async def test_tables_that_are_migrated_beneath_the_process_are_reported_once(checked):
    with capture_logs() as lines:
        await checked.after(5)
        checked.now_found = Location("public", "9999")
        await checked.after(5)
        await checked.after(5)

    [line] = lines
    assert (line["event"], line["log_level"]) == ("schema_is_newer", "warning")
    assert line["problem"].startswith("schema public is at revision 9999, and this program is")
