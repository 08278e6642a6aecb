"""
When certificates end, as they say themselves, in every form that the end of a certificate has.
"""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from outbox import certificate_expiry
from outbox.certificate_expiry import (
    CertificateExpiry,
    client_problem,
    end_of_file,
    expiries,
    validity_of,
)
from outbox.checks.certificates import of_expiries
from outbox.checks.result import Status

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _none_known(monkeypatch):
    monkeypatch.setattr(certificate_expiry, "_PRESENTED", {})
    monkeypatch.setattr(certificate_expiry, "_FILES", {})


def certificate(ends: datetime) -> trustme.LeafCert:
    return trustme.CA().issue_cert("db.example", not_after=ends)


@pytest.mark.parametrize(
    "ends",
    [
        datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(2026, 2, 28, 1, 2, 3, tzinfo=UTC),
        datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(2050, 1, 1, tzinfo=UTC),  # from then on with four digits of the year
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
    ],
    ids=lambda ends: str(ends.year),
)
def test_the_validity_of_a_certificate_is_read_to_the_second(ends):
    begins = min(ends, NOW) - timedelta(days=1)
    issued = trustme.CA().issue_cert("db.example", not_before=begins, not_after=ends)

    found = validity_of(ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode()))
    assert found == (begins, ends)


def test_bytes_that_are_no_certificate_are_refused_and_never_read_beyond_their_end():
    whole = ssl.PEM_cert_to_DER_cert(certificate(NOW).cert_chain_pems[0].bytes().decode())

    for data in (b"", b"\x30", b"\x30\x00", b"text", whole[:-1], whole[:40], whole[4:]):
        with pytest.raises(ValueError, match=r"."):
            validity_of(data)


def test_the_first_certificate_of_a_file_counts_also_behind_its_key(tmp_path: Path):
    issued = certificate(NOW)
    file = tmp_path / "both.pem"
    file.write_bytes(issued.private_key_and_cert_chain_pem.bytes() + trustme.CA().cert_pem.bytes())

    assert end_of_file(file) == NOW

    for content in (b"", b"text", b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----"):
        file.write_bytes(content)
        assert end_of_file(file) is None
    assert end_of_file(tmp_path / "none.pem") is None


def test_a_certificate_of_the_client_is_read_again_after_it_was_replaced(tmp_path: Path):
    file = tmp_path / "client.pem"
    certificate(NOW).cert_chain_pems[0].write_to_path(file)
    certificate_expiry.remember_client("broker", str(file))
    before = certificate_expiry.expiries()
    later = NOW + timedelta(days=90)

    certificate(later).cert_chain_pems[0].write_to_path(file)

    assert before == [CertificateExpiry("broker", "client", NOW)]
    assert certificate_expiry.expiries() == [CertificateExpiry("broker", "client", later)]
    file.unlink()
    assert certificate_expiry.expiries() == []


def test_a_warning_names_the_setting_the_certificate_and_whether_its_end_is_past(tmp_path: Path):
    certificate_expiry._PRESENTED.update(
        database=NOW + timedelta(days=31), broker=NOW + timedelta(days=29)
    )
    file = tmp_path / "client.pem"
    certificate(NOW - timedelta(hours=1)).cert_chain_pems[0].write_to_path(file)
    certificate_expiry.remember_client("database", file)

    broker, of_server, database = of_expiries(expiries(), NOW)
    assert broker.text == (
        "MQ_BROKER_URL: the server's certificate expires at 2026-05-30 00:00 UTC, in less than "
        "30 days: renew it"
    )
    assert of_server.text.endswith("expires at 2026-06-01 00:00 UTC, in 31 days")
    assert [each.status for each in (broker, of_server, database)] == [
        Status.WARNING,
        Status.OK,
        Status.WARNING,
    ]
    assert database.text == (
        "MQ_DATABASE_URL: the client's certificate expires at 2026-04-30 23:00 UTC, which is "
        "past: renew it"
    )


def test_a_certificate_of_the_client_that_is_not_valid_now_is_named_as_the_cause(tmp_path: Path):
    file = tmp_path / "client.pem"
    begins = NOW - timedelta(days=1)
    issued = trustme.CA().issue_cert("x", not_before=begins, not_after=NOW)
    issued.cert_chain_pems[0].write_to_path(file)

    assert client_problem("database", NOW) is None
    certificate_expiry.remember_client("database", file)
    assert client_problem("database", NOW) is None
    assert client_problem("broker", NOW + timedelta(seconds=1)) is None
    assert client_problem("database", NOW + timedelta(seconds=1)) == (
        "TLS: the client's certificate has expired"
    )
    assert client_problem("database", begins - timedelta(seconds=1)) == (
        "TLS: the client's certificate is not valid yet"
    )
    file.unlink()
    assert client_problem("database", NOW + timedelta(seconds=1)) is None
