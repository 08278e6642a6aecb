"""
A deployment replaces processes one by one: old ones get messages that only new ones can handle.
"""

import pytest

from consumer.storage.tables import parked_messages
from outbox import Event, insert
from tests.support import ordered
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.processes import ChildProcess

KEYS, STEPS = ["a", "b", "c"], 9


class Versions(Deployment):
    async def version(self, *, is_new: bool) -> ChildProcess:
        self._env["IS_NEW"] = "yes" if is_new else "no"
        return await self.consumer("deployed")


def events() -> list[Event]:
    """The middle step of each key has a new type."""
    return [
        Event(
            "test.new" if step == STEPS // 2 else "test.step",
            {"key": key, "step": step},
            ordering_key=key,
        )
        for step in range(STEPS)
        for key in KEYS
    ]


@pytest.mark.parametrize("is_ordered", [False, True], ids=["unordered", "ordered"])
async def test_a_new_type_waits_for_the_new_version_and_keys_keep_their_order(
    urls, tmp_path, is_ordered
):
    async with Versions(*urls, tmp_path, IS_ORDERED="yes" if is_ordered else "no") as versions:
        async with versions.engine.begin() as connection:
            await ordered.create(connection)
        old = await versions.version(is_new=False)
        await versions.relay()
        async with versions.engine.begin() as connection:
            await connection.execute(insert(*events()))

        async def old_has_done_its_part() -> bool:
            done = len(await versions.rows(ordered.steps))
            parked = len(await versions.rows(parked_messages))
            all_known = len(KEYS) * (STEPS - 1)
            return done + parked == len(events()) if is_ordered else done == all_known

        await eventually(old_has_done_its_part, within=30)
        await old.wait_for_line("message_unsupported")
        assert await versions.dead() == []
        assert await old.terminate() == 0
        assert old.output.count("message_unsupported") == 1
        await versions.version(is_new=True)

        async def all_done() -> bool:
            return len(await versions.rows(ordered.steps)) == len(events())

        await eventually(all_done, within=40)
        rows = sorted(await versions.rows(ordered.steps), key=lambda row: row["id"])
        assert {row["attempt"] for row in rows} == {1}
        if is_ordered:
            for key in KEYS:
                assert [row["step"] for row in rows if row["key"] == key] == list(range(STEPS))
        assert await versions.dead() == []


async def test_a_type_that_no_version_handles_is_given_up_in_the_end(urls, tmp_path):
    async with Versions(
        *urls, tmp_path, IS_ORDERED="yes", MQ_UNSUPPORTED_WAIT_SECONDS="2"
    ) as versions:
        async with versions.engine.begin() as connection:
            await ordered.create(connection)
        await versions.version(is_new=False)
        await versions.relay()
        async with versions.engine.begin() as connection:
            await connection.execute(insert(*events(), Event("test.new", {})))

        async def given_up() -> bool:
            return len(await versions.dead()) == len(KEYS) + 1

        await eventually(given_up, within=30)
        assert {row["reason"] for row in await versions.dead()} == {"no_handler"}

        async def others_done() -> bool:
            return len(await versions.rows(ordered.steps)) == len(KEYS) * (STEPS - 1)

        await eventually(others_done, within=30)
