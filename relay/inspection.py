"""
All that `relay check` looks at, without changing anything.
"""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from outbox.certificate_expiry import expiries
from outbox.checks import certificates, database, encryption, versions
from outbox.checks.broker import BrokerCheck
from outbox.checks.report import Report
from outbox.checks.result import Check, CheckResult
from outbox.checks.unroutable import Waiting
from outbox.runtime import probes, process
from outbox.transports.connect import management
from outbox.transports.inspection import Act, Publishing, acts_of_bindings
from outbox.transports.topology import Binding
from relay import assembly
from relay.settings import RelaySettings
from relay.storage import ordering_secret, plain_rows, waiting_keys
from relay.storage.base import Backlog

OLD_SNAPSHOT = timedelta(hours=1)
MANY_DEAD_TUPLES = 1_000_000
_BY_CLOCK = "the latencies in the relay's metrics are wrong by as much"


async def inspect(settings: RelaySettings, report: Report) -> None:
    """Add the results of all checks to *report*."""
    report.add(*versions.of_python(sys.version_info[:3]))
    report.step(Check.SETTINGS, lambda: process.allow_configured_headers(settings))
    report.step(Check.PROBES, lambda: probes.check_host(settings))
    name = process.name(assembly.ROLE)
    await report.async_step(Check.ENCRYPTION, encryption.check(settings, report, name=name))
    waiting = await _check_database(settings, report)
    # The client of the broker may not be installed.
    await report.async_step(Check.SETTINGS, _check_broker(settings, report, waiting))
    report.add(*certificates.of_expiries(expiries(), datetime.now(UTC)))


async def _check_database(settings: RelaySettings, report: Report) -> list[Waiting] | None:
    """Check the database; returns the routing keys that wait in the outbox, if they are known."""
    await database.check_server(
        settings, report, name=process.name(assembly.ROLE), affected_by_clock=_BY_CLOCK
    )
    if not database.is_usable(report):
        return None
    return await report.async_step(Check.SCHEMA, _check_tables(settings, report))


async def _check_tables(settings: RelaySettings, report: Report) -> list[Waiting]:
    async with assembly.database(settings) as engine:
        location = await assembly.expectation(settings).verify(engine)
        await ordering_secret.read(engine)
        report.add(database.of_tables(location))
        report.warn(Check.SCHEMA, await assembly.warnings(engine))
        report.add(
            *database.of_plaintext(
                is_refused=await assembly.refuses_plaintext(engine),
                is_required=settings.require_encryption,
                waiting=await plain_rows.count(engine) if settings.require_encryption else 0,
            )
        )
        report.add(*of_vacuum(await assembly.store(engine, settings).backlog()))
        return await waiting_keys.read(engine, exchange=settings.main_exchange)


async def _check_broker(
    settings: RelaySettings, report: Report, waiting: Sequence[Waiting] | None
) -> None:
    check = BrokerCheck(settings, assembly.broker(settings), management(settings), report)
    if not await check.server(acts(settings, waiting or ())):
        return
    await check.topology(assembly.declared(settings))
    await report.async_step(Check.REQUIRED_QUEUES, assembly.check_required_queues(settings))
    await check.routes(waiting)


def acts(settings: RelaySettings, waiting: Sequence[Waiting]) -> list[Act]:
    """What the relay does with the broker, with the routing keys of events that are *waiting*."""
    keys: dict[str, list[str]] = {settings.main_exchange: []}
    for each in waiting:
        keys.setdefault(each.exchange, []).append(each.routing_key)
    pairs = [item.partition("=") for item in settings.required_queues]
    bindings = [Binding(settings.main_exchange, queue, key) for queue, sign, key in pairs if sign]
    publishing = [Publishing(exchange, tuple(found)) for exchange, found in keys.items()]
    return [*publishing, *acts_of_bindings(bindings)]


def of_vacuum(backlog: Backlog) -> list[CheckResult]:
    """Judge what keeps rows from being removed from the table of the outbox."""
    if backlog.dead_tuples is None or backlog.oldest_snapshot_age is None:
        return []
    results = []
    if backlog.oldest_snapshot_age > OLD_SNAPSHOT:
        age = timedelta(seconds=int(backlog.oldest_snapshot_age.total_seconds()))
        results.append(
            f"outbox: a transaction is open for {age}, so that vacuum removes no rows: end the one"
            " with the oldest xact_start in pg_stat_activity"
        )
    if backlog.dead_tuples > MANY_DEAD_TUPLES:
        results.append(
            f"outbox: {backlog.dead_tuples:,} deleted rows wait for vacuum: end old transactions,"
            " drop unused replication slots, or run VACUUM outbox"
        )
    if results:
        return [CheckResult.warning(Check.VACUUM, text) for text in results]
    return [CheckResult.ok(Check.VACUUM, "vacuum keeps up with the outbox")]
