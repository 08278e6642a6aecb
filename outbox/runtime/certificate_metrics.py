"""
The metric of certificates: when those of the servers, and those of this process, end.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from outbox.certificate_expiry import expiries

_NAME = "mq_certificate_expiry_timestamp_seconds"
_MEANING = (
    "When a certificate expires, as Unix time: that which a server presented at the last "
    "connection, or that in the file of the client."
)


class CertificateMetrics(Collector):
    """
    Reads the ends of certificates whenever *registry* is read.

    An alert compares them with `time()`. Servers without TLS have no sample.
    """

    _labelnames = ("server", "certificate")

    def __init__(self, registry: CollectorRegistry) -> None:
        registry.register(self)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The metric without samples."""
        return [GaugeMetricFamily(_NAME, _MEANING, labels=self._labelnames)]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The metric with a sample for each certificate that is known now."""
        family = GaugeMetricFamily(_NAME, _MEANING, labels=self._labelnames)
        for each in expiries():
            family.add_metric([each.server, each.role], each.ends.timestamp())
        return [family]
