"""
Metrics whose values are in this process alone, whatever `PROMETHEUS_MULTIPROC_DIR` says.

With that variable the client library keeps the values of all metrics in files that the processes
of a host share, and that a process with the same id goes on with after a restart. A web server
with several workers wants that, and its environment may be that of a relay or a consumer too. But
each of our processes serves its own values on a port of its own: in the files they would also be
among those of the web server, and gauges of a process that has ended would stay. The metrics of
handlers, which use the library itself, follow the variable.
"""

import time

import prometheus_client
from prometheus_client.values import MutexValue


def _value() -> MutexValue:
    # It ignores the arguments, which name a place in the files.
    return MutexValue("", "", "", (), (), "")  # type: ignore[no-untyped-call]


class Counter(prometheus_client.Counter):
    """The library's counter, in this process alone."""

    def _metric_init(self) -> None:
        self._value = _value()
        self._created = time.time()


class Gauge(prometheus_client.Gauge):
    """The library's gauge, in this process alone."""

    def _metric_init(self) -> None:
        self._value = _value()

    def remove(self, *labelvalues: object) -> None:
        """Remove the series with *labelvalues*; the library warns that its files keep it."""
        with self._lock:
            self._metrics.pop(tuple(map(str, labelvalues)), None)

    def clear(self) -> None:
        """Remove all series, without that warning."""
        with self._lock:
            self._metrics.clear()


class Histogram(prometheus_client.Histogram):
    """The library's histogram, in this process alone."""

    def _metric_init(self) -> None:
        self._sum = _value()
        self._buckets = [_value() for _ in self._upper_bounds]
        self._created = time.time()
