"""
Reads the probes and metrics of a process on this host.
"""

import http.client
from http import HTTPStatus

from prometheus_client.parser import text_string_to_metric_families

OK = HTTPStatus.OK
_SECONDS = 2.0


def get(port: int, path: str) -> tuple[int, str]:
    """Status and body of the response to GET *path*; status 0 without a response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def total(metrics: str, name: str) -> int:
    """The metric *name* in Prometheus text, summed over labels; 0 if it is missing."""
    samples = (
        sample
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == name
    )
    return int(sum(sample.value for sample in samples))
