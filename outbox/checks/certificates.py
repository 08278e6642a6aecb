"""
Certificates of servers and of this process that end soon.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from outbox.certificate_expiry import WARNED_BEFORE, CertificateExpiry
from outbox.checks.result import Check, CheckResult


def of_expiries(expiries: Sequence[CertificateExpiry], now: datetime) -> Iterator[CheckResult]:
    """Judge the ends of certificates at *now*."""
    check = Check.CERTIFICATES
    for each in expiries:
        left = each.ends - now
        if left < timedelta(0):
            yield CheckResult.warning(check, f"{each}, which is past: renew it")
        elif left < WARNED_BEFORE:
            yield CheckResult.warning(
                check, f"{each}, in less than {WARNED_BEFORE.days} days: renew it"
            )
        else:
            yield CheckResult.ok(check, f"{each}, in {left.days} days")
