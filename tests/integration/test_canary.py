"""
Health data is where the pages say, and with encryption nowhere outside of producer and handler.
"""

from tests.support.canary.fleet import Fleet
from tests.support.canary.markers import Group, Markers, Search
from tests.support.canary.scenario import Scenario
from tests.support.commands import CommandLine


async def test_markers_are_found_on_files(tmp_path):
    work, unsearched = tmp_path / "work", tmp_path / "unsearched"
    work.mkdir()
    unsearched.mkdir()
    import time

    t0 = time.time()
    markers = {group: Markers() for group in Group}
    keys = f"sqlite:///{work / 'keys.db'}"
    urls = f"sqlite+aiosqlite:///{work / 'outbox.db'}", f"sqlite:///{work / 'broker.db'}"
    shell = CommandLine(
        work, MQ_DATABASE_URL=urls[0], MQ_BROKER_URL=urls[1], MQ_ENCRYPTION_KEYS=keys
    )
    print(await shell.run("relay", "migrate"))
    print(await shell.run("relay", "keys", "init"))
    search = Search(markers)

    async def no_outage(): ...

    async with Fleet(*urls, work, keys=keys) as fleet:
        scenario = Scenario(fleet, markers, no_outage, unsearched, search)
        await scenario.live()
        t = time.time() - t0
        print("LIVE", t)
        print([(r["source"], r["reason"], r["type"]) for r in await fleet.dead()])
    from tests.support.canary.places import files

    for path, data in files(work):
        search.look(path.name, data)
    for group in Group:
        print(group)
        for place, around in search.found[group].items():
            print("   ", place, around if group is not Group.PLAIN else "")
    print("ALL", time.time() - t0)
    assert 0
