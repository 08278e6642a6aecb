from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, generate_latest

from outbox import certificate_expiry
from outbox.certificate_expiry import CertificateExpiry
from outbox.runtime import certificate_metrics
from outbox.runtime.certificate_metrics import CertificateMetrics

NAME = "mq_certificate_expiry_timestamp_seconds"


def test_each_known_certificate_has_its_end_as_unix_time(monkeypatch):
    registry = CollectorRegistry()
    CertificateMetrics(registry)
    ends = datetime(2030, 1, 1, tzinfo=UTC)
    known = [CertificateExpiry("broker", "server", ends)]
    monkeypatch.setattr(certificate_metrics, "expiries", lambda: known)

    assert registry.get_sample_value(NAME, {"server": "broker", "certificate": "server"}) == (
        ends.timestamp()
    )
    known.clear()
    assert f"\n{NAME}{{" not in generate_latest(registry).decode()


def test_a_process_without_tls_has_no_sample(monkeypatch):
    monkeypatch.setattr(certificate_expiry, "_PRESENTED", {})
    monkeypatch.setattr(certificate_expiry, "_FILES", {})
    registry = CollectorRegistry()
    CertificateMetrics(registry)

    assert f"# TYPE {NAME} gauge" in generate_latest(registry).decode()
    assert f"\n{NAME}{{" not in generate_latest(registry).decode()
