"""
The commands `relay keys status`, `rotate`, `rewrap` and `retire`.
"""

import asyncio
from datetime import UTC, datetime, timedelta

from outbox.audit_tables import audit_log
from outbox.cli import dead_letter_view, key_view
from outbox.cli.console import console, once, print_json
from outbox.cli.interruptible import run_interruptible, run_query
from outbox.cli.key_settings import KeySettings, audit_of, subject_store
from outbox.consumer_tables import parked_messages
from outbox.database.privileges import Rights
from outbox.dead_letters.selection import duration
from outbox.encryption import sources
from outbox.encryption.data_keys import MAX_SECONDS
from outbox.encryption.key_ring import new_key
from outbox.encryption.keys import KeyProvider
from outbox.encryption.managed_keys import managed
from outbox.errors import ConfigurationError
from outbox.key_operations import key_changes, key_reading, retirement, subject_rewrap
from outbox.key_operations.key_report import KeysReport, SubjectKeyCounts, current_id
from outbox.key_operations.rewrap import Run, WrappedAgain
from outbox.key_operations.rewrapping import Wanted
from outbox.key_operations.subject_rewrap import SubjectRun
from outbox.key_operations.wrapped_again import Summary
from outbox.runtime.service import ExitCode
from outbox.tables import dead_letters, outbox

READING: Rights = dict.fromkeys((outbox, dead_letters, parked_messages), ("SELECT",))
REWRAPPING: Rights = {
    **dict.fromkeys((outbox, dead_letters, parked_messages), ("SELECT", "UPDATE")),
    audit_log: ("INSERT",),
}
RECORDING: Rights = {audit_log: ("INSERT",)}


def status(settings: KeySettings, *, max_age: str | None, as_json: bool) -> None:
    """Show the report; the process ends with exit code 1 if there are problems."""
    limit = duration("--max-age", max_age)
    source = keys_of(settings)

    async def work() -> KeysReport:
        provider = await asyncio.to_thread(sources.provider, source)
        async with settings.opened(READING) as engine:
            return await key_reading.read(engine, provider, await _subjects(settings))

    report = run_query(work)
    problems = report.problems(max_age=limit)
    if as_json:
        print_json(key_view.as_json(report, problems))
    else:
        key_view.show_report(console, report, problems)
    _end(is_clean=not problems)


def rotate(
    settings: KeySettings, *, active_in: str | None, because: str | None, by: str | None
) -> None:
    """Add a key to the source."""
    audit = audit_of(because, by)
    wait = _wait(active_in)
    keys = managed(keys_of(settings))
    key = new_key(datetime.now(UTC) + wait)

    async def work() -> None:
        async with settings.opened(RECORDING) as engine:
            await key_changes.rotate(engine, keys, key, audit)

    once(work)
    used_by = key.active_from + timedelta(seconds=MAX_SECONDS)
    console.print(
        f"added {key.id}: producers use it from {key_view.time_of(key.active_from)} on, all of"
        f" them by {key_view.time_of(used_by)}; every host needs it before;"
        " then run `relay keys rewrap`"
    )


def rewrap(
    settings: KeySettings, *, only: str | None, because: str | None, by: str | None
) -> None:
    """Give rows the current key."""
    audit = audit_of(because, by, key=only or "all")
    source = keys_of(settings)

    async def work(stop: asyncio.Event) -> Summary:
        provider = await asyncio.to_thread(sources.provider, source)
        return await _rewrap(settings, provider, only, audit, stop)

    summary = run_interruptible(work)
    _end(is_clean=summary.is_clean)


def retire(
    settings: KeySettings,
    key_id: str,
    *,
    replaced_for: str | None,
    force: bool,
    because: str | None,
    by: str | None,
) -> None:
    """Remove a key from the source, if no row needs it."""
    audit = audit_of(because, by, key=key_id)
    wait = duration("--replaced-for", replaced_for) or retirement.REPLACED_FOR
    keys = managed(keys_of(settings))

    async def work() -> int:
        async with settings.opened({**READING, **RECORDING}) as engine:
            rows = await key_reading.rows_of(engine, key_id, await _subjects(settings))
            ring = await asyncio.to_thread(keys.ring)
            now = datetime.now(UTC)
            retirement.check(ring, key_id, rows, now=now, replaced_for=wait, force=force)
            await key_changes.retire(engine, keys, key_id, audit, rows=sum(rows.values()))
            return sum(rows.values())

    lost = once(work)
    console.print(f"removed {key_id}" + (f"; {lost:,} rows cannot be read any more" * bool(lost)))


def keys_of(settings: KeySettings) -> str:
    """Return the source of keys; raises ConfigurationError without one."""
    if settings.keys is None:
        raise ConfigurationError(
            f"{sources.SETTING}: is not set, so events are not encrypted;"
            " `relay keys init` makes a first key"
        )
    return settings.keys


async def _subjects(settings: KeySettings) -> SubjectKeyCounts | None:
    async with subject_store(settings) as store:
        if store is None:
            return None
        return await subject_rewrap.counts(store.engine, setting=store.setting)


async def _rewrap(
    settings: KeySettings,
    provider: KeyProvider,
    only: str | None,
    audit: key_changes.KeyAudit,
    stop: asyncio.Event,
) -> Summary:
    summary = Summary()
    current = await asyncio.to_thread(current_id, provider)
    async with settings.opened(REWRAPPING) as engine, subject_store(settings) as store:
        with dead_letter_view.bar(console) as bar:
            task = bar.add_task("rewrapped", total=None)
            run = Run(
                engine=engine,
                wrapped=WrappedAgain(provider),
                wanted=Wanted(current, only),
                audit=audit,
                stop=stop,
                on_progress=lambda rows: bar.advance(task, rows),
                summary=summary,
            )
            bar.update(task, total=await run.rows())
            try:
                await run.run()
                if store is not None:
                    await SubjectRun(
                        engine=store.engine,
                        setting=store.setting,
                        outbox=engine,
                        keys=provider,
                        wanted=run.wanted,
                        audit=audit,
                        stop=stop,
                        on_progress=run.on_progress,
                        summary=summary,
                    ).run()
            finally:
                key_view.show_rewrapped(console, summary, current=current)
    return summary


def _wait(active_in: str | None) -> timedelta:
    return timedelta(0) if active_in == "0" else duration("--active-in", active_in) or timedelta(0)


def _end(*, is_clean: bool) -> None:
    if not is_clean:
        raise SystemExit(ExitCode.CRASHED)
