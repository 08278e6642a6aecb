"""
Figures of the embedded broker: its queues, and the disk that its file is on.
"""

import shutil
import sqlite3
from pathlib import Path

from outbox.transports.broker_figures import BrokerFigures, NodeFigures, QueueFigures

# Counts of an index, as the messages themselves have bodies.
_QUEUES = """
SELECT queues.name,
    (SELECT count(*) FROM messages WHERE queue = queues.name AND owner IS NULL) AS ready,
    (SELECT count(*) FROM messages
        WHERE owner IN (SELECT id FROM consumers WHERE queue = queues.name)) AS leased,
    (SELECT count(*) FROM consumers WHERE queue = queues.name AND lease_until >= :now) AS consumers
FROM queues ORDER BY queues.name
"""


def queue_figures(db: sqlite3.Connection, now: int) -> list[QueueFigures]:
    """Return the figures of all queues."""
    return [
        QueueFigures(
            name=row["name"],
            messages=row["ready"] + row["leased"],
            unsettled=row["leased"],
            consumers=row["consumers"],
        )
        for row in db.execute(_QUEUES, {"now": now})
    ]


def broker_figures(path: Path, queues: list[QueueFigures]) -> BrokerFigures:
    """Return the figures of the broker in the file at *path*, which has *queues*."""
    free = shutil.disk_usage(path.absolute().parent).free
    node = NodeFigures(name=path.name, disk_free=free)
    return BrokerFigures(version="embedded broker", queues=queues, nodes=[node])
