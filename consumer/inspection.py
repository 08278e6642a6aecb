"""
All that `consumer check` looks at, without changing anything.
"""

import sys
from datetime import UTC, datetime

from consumer import assembly, checks
from consumer import encryption as encryption_of_process
from consumer.consumer import Consumer
from consumer.partitions.hash_type import check_hash_type
from consumer.settings import ConsumerSettings
from outbox.certificate_expiry import expiries
from outbox.checks import certificates, compression, database, encryption, versions
from outbox.checks.broker import BrokerCheck
from outbox.checks.report import Report
from outbox.checks.result import Check
from outbox.database.location import Location
from outbox.runtime import probes, process
from outbox.transports.connect import management
from outbox.transports.inspection import Act, Consuming, Publishing, acts_of_bindings

_BY_CLOCK = (
    "retries come too early or too late, and so does the age at which messages are dead-lettered"
    " as older than MQ_DEDUPLICATION_RETENTION_HOURS"
)


async def inspect(consumer: Consumer, settings: ConsumerSettings, report: Report) -> None:
    """Add the results of all checks to *report*."""
    report.add(*versions.of_python(sys.version_info[:3]))
    report.add(*compression.of_compression(settings.compression))
    report.step(Check.HANDLERS, lambda: checks.check_handlers(consumer))
    report.step(Check.SETTINGS, lambda: checks.check(consumer, settings))
    report.step(Check.SETTINGS, lambda: process.allow_configured_headers(settings))
    report.step(Check.PROBES, lambda: probes.check_host(settings))
    await report.async_step(Check.SETTINGS, _check_encryption(consumer, settings, report))
    await _check_database(consumer, settings, report)
    # The client of the broker may not be installed.
    await report.async_step(Check.SETTINGS, _check_broker(consumer, settings, report))
    report.add(*certificates.of_expiries(expiries(), datetime.now(UTC)))


async def _check_encryption(
    consumer: Consumer, settings: ConsumerSettings, report: Report
) -> None:
    encryption_of_process.check_required(settings)
    name = process.name(assembly.role(consumer))
    await report.async_step(Check.ENCRYPTION, encryption.check(settings, report, name=name))


async def _check_database(consumer: Consumer, settings: ConsumerSettings, report: Report) -> None:
    name = process.name(assembly.role(consumer))
    await database.check_server(settings, report, name=name, affected_by_clock=_BY_CLOCK)
    if database.is_usable(report):
        found = await report.async_step(Check.SCHEMA, _tables(consumer, settings))
        if found is not None:
            report.add(database.of_tables(found))


async def _tables(consumer: Consumer, settings: ConsumerSettings) -> Location:
    async with assembly.database(consumer, settings) as engine:
        return await assembly.expectation(consumer, settings).verify(engine)


async def _check_broker(consumer: Consumer, settings: ConsumerSettings, report: Report) -> None:
    topology = assembly.declared(consumer, settings)
    check = BrokerCheck(
        settings, assembly.broker(consumer, settings), management(settings), report
    )
    if not await check.server(acts(consumer, settings)):
        return
    await check.topology(topology)
    if assembly.queues(consumer, settings).is_partitioned:
        broker = assembly.broker(consumer, settings)
        await report.async_step(Check.TOPOLOGY, check_hash_type(broker))
    await check.policies(topology)


def acts(consumer: Consumer, settings: ConsumerSettings) -> list[Act]:
    """What *consumer* does with the broker."""
    queues = assembly.queues(consumer, settings)
    found: list[Act] = [
        Consuming(queues.name),
        Consuming(queues.dead),
        Publishing(""),
    ]
    if settings.declare_topology:
        # A queue that dead-letters to an exchange is declared by a user that may write to it.
        found.append(Publishing(settings.dlx_exchange))
        found += acts_of_bindings(assembly.declared(consumer, settings).bindings)
    return found
