"""
Version, TLS, clock and connection pooler of the database.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from outbox.certificate_expiry import CertificateExpiry, expiries
from outbox.checks import certificates, clocks, versions
from outbox.checks.report import Report
from outbox.checks.result import Check, CheckResult
from outbox.database import migrate, server_facts
from outbox.database.location import Location
from outbox.database.server_facts import ServerFacts
from outbox.settings import SharedSettings

SAFE_SQLITE = (3, 51, 3)
"""Versions from 3.7.0 up to this may corrupt a WAL file that two connections write to."""

_UNKNOWN = {
    Check.DATABASE_TLS: "TLS to the database",
    Check.DATABASE_CLOCK: "the clock of the database",
    Check.DATABASE_POOLER: "a connection pooler before the database",
}


async def check_server(
    settings: SharedSettings, report: Report, *, name: str, affected_by_clock: str
) -> None:
    """
    Add what there is to say about the database server, on connections with this *name*.

    *affected_by_clock* says what the process does by the clock of this host.
    """
    if settings.database.get_backend_name() == "sqlite":
        report.add(of_sqlite(sqlite3.sqlite_version_info))
        return
    facts = await report.async_step(
        Check.DATABASE_VERSION, server_facts.read(settings.database, application_name=name)
    )
    if facts is None:
        report.add(*unreachable())
        return
    report.add(*versions.of_postgres(facts.version), of_tls(facts))
    report.add(clocks.of_database(facts.clock, affected=affected_by_clock))
    report.add(*of_certificate(facts, expiries(), datetime.now(UTC)))
    report.add(of_pooler(facts, is_expected="pgbouncer" in settings.database.query))


def is_usable(report: Report) -> bool:
    """Whether the tables can be looked at; if not, a result says so."""
    found = map(report.has_error, (Check.DATABASE_VERSION, Check.DATABASE_POOLER))
    if not any(found):
        return True
    because = "the database cannot be used"
    report.add(CheckResult.not_checked(Check.SCHEMA, "the tables", because=because))
    return False


def of_tables(found: Location) -> CheckResult:
    """Say at which revision the tables are that were *found*; warn if they are newer."""
    if (problem := migrate.newer(found)) is not None:
        return CheckResult.warning(Check.SCHEMA, problem)
    return CheckResult.ok(Check.SCHEMA, str(found))


def of_plaintext(*, is_refused: bool, is_required: bool, waiting: int = 0) -> list[CheckResult]:
    """
    Judge whether the outbox and MQ_REQUIRE_ENCRYPTION say the same; nothing if both are off.

    Among the first rows of the outbox are *waiting* plain ones. Without the trigger, a producer
    that does not know the setting inserts plaintext, which the relay dead-letters; without the
    setting, the relay publishes plaintext from before the trigger.
    """
    if is_required and waiting:
        return [
            CheckResult.warning(
                Check.PLAINTEXT,
                f"MQ_REQUIRE_ENCRYPTION: {waiting:,} of the first events in the outbox are in"
                " plaintext: the relay dead-letters them as plaintext_refused",
            )
        ]
    if is_refused and is_required:
        return [CheckResult.ok(Check.PLAINTEXT, "the outbox refuses plaintext")]
    if is_required:
        return [
            CheckResult.warning(
                Check.PLAINTEXT,
                "MQ_REQUIRE_ENCRYPTION: is set, and the outbox accepts plaintext from producers"
                " without it: run `relay keys require`",
            )
        ]
    if is_refused:
        return [
            CheckResult.warning(
                Check.PLAINTEXT,
                "MQ_REQUIRE_ENCRYPTION: is not set, and the outbox refuses plaintext: set it, or"
                " run `relay keys allow-plaintext`",
            )
        ]
    return []


def of_sqlite(version: tuple[int, ...]) -> CheckResult:
    """Judge the *version* of SQLite."""
    shown = versions.shown(version)
    if version >= SAFE_SQLITE:
        return CheckResult.ok(Check.DATABASE_VERSION, f"SQLite {shown}")
    return CheckResult.warning(
        Check.DATABASE_VERSION,
        f"SQLite {shown} has the WAL-reset bug, which may corrupt a file that several processes"
        f" write to; it is fixed in {versions.shown(SAFE_SQLITE)}",
    )


def of_tls(facts: ServerFacts) -> CheckResult:
    """Say whether the connection uses TLS; settings refuse plaintext beyond loopback."""
    text = "with TLS" if facts.is_encrypted else "without TLS"
    return CheckResult.ok(Check.DATABASE_TLS, f"the connection to the database is {text}")


def of_certificate(
    facts: ServerFacts, known: Sequence[CertificateExpiry], now: datetime
) -> Iterator[CheckResult]:
    """Judge the certificate of the database, unless it is *known* and so judged with others."""
    is_known = any((each.server, each.role) == ("database", "server") for each in known)
    if facts.certificate_ends is not None and not is_known:
        expiry = CertificateExpiry("database", "server", facts.certificate_ends)
        yield from certificates.of_expiries([expiry], now)


def of_pooler(facts: ServerFacts, *, is_expected: bool) -> CheckResult:
    """Judge a pooler before the server; *is_expected* by the setting."""
    check = Check.DATABASE_POOLER
    if facts.shares_sessions and not is_expected:
        return CheckResult.error(
            check,
            "MQ_DATABASE_URL: a connection pooler gives its sessions to several clients, as"
            " PgBouncer does in transaction mode: add ?pgbouncer=1",
        )
    if facts.shares_sessions:
        return CheckResult.ok(
            check, "a connection pooler in transaction mode, as ?pgbouncer=1 says"
        )
    if facts.is_pooled:
        return CheckResult.ok(check, "a connection pooler, which was not seen to share sessions")
    if is_expected:
        return CheckResult.warning(
            check,
            "MQ_DATABASE_URL: has ?pgbouncer=1, and no connection pooler answers: without the"
            " parameter an idle relay is woken at once, and statements are prepared only once",
        )
    return CheckResult.ok(check, "no connection pooler is before the database")


def unreachable() -> Iterator[CheckResult]:
    """Say what was not checked since the database is unreachable."""
    for check, what in _UNKNOWN.items():
        yield CheckResult.not_checked(check, what, because="the database cannot be reached")
