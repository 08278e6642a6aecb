"""
The metrics of all processes, on the one page of their supervisor.

Each series gets the label `process`, the number of the process, so that a restarted process goes
on with the series of the one before, as a restarted program does elsewhere. A process that does
not answer in time is left out: its gap in the series shows it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

ANSWERS_WITHIN_SECONDS = 2.0
LABEL = "process"
_AT_ONCE = 16
_OK = 200


class MergedMetrics(Collector):
    """
    Collects the pages of the *ports*, which are by the numbers of the processes.

    *ports* is called in the threads of the probes.
    """

    def __init__(self, ports: Callable[[], Mapping[int, int]]) -> None:
        self._ports = ports

    def describe(self) -> Iterable[Metric]:
        # Else the registry would collect them to learn their names.
        return ()

    def collect(self) -> Iterator[Metric]:
        ports = self._ports()
        if not ports:
            return
        with ThreadPoolExecutor(min(len(ports), _AT_ONCE)) as readers:
            pages = dict(zip(ports, readers.map(_page, ports.values()), strict=True))
        yield from merged(pages)


def merged(pages: Mapping[int, str]) -> list[Metric]:
    """The metrics of the *pages*, which are by the numbers of the processes."""
    found: dict[str, Metric] = {}
    for number, page in sorted(pages.items()):
        for family in text_string_to_metric_families(page):
            same = found.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            for sample in family.samples:
                labels = {**sample.labels, LABEL: str(number)}
                same.samples.append(sample._replace(labels=labels))
    return list(found.values())


def _page(port: int) -> str:
    connection = HTTPConnection("127.0.0.1", port, timeout=ANSWERS_WITHIN_SECONDS)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        page = answer.read().decode()
    except (OSError, HTTPException, UnicodeDecodeError):
        return ""
    finally:
        connection.close()
    return page if answer.status == _OK else ""
