"""
The files of simulations: a directory with migrated SQLite databases, reused between runs.
"""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from outbox.database import migrate
from tests.reliability.simulation.database import Database, Engines
from tests.reliability.simulation.handlers import metadata, statements_for
from tests.reliability.simulation.other_people import INTEGERS, KEPT_ROWS

PRODUCERS = "outbox.db"
CONSUMERS = "consumers.db"
_SECRET = b"the same in each run"


class DatabaseFiles:
    """
    The files of one simulation after another, in *directory*.

    Args:
        databases: The databases of the running simulation, by path.

    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.databases: dict[str, Database] = {}
        self.engines = Engines(lambda: self.databases)
        self._migrated = directory / "migrated.db"
        migrate.upgrade(f"sqlite:///{self._migrated}")
        self.head = migrate.head()
        with closing(sqlite3.connect(self._migrated)) as connection:
            # Lanes are digests with it, and are worked off in their order.
            connection.execute("UPDATE ordering_secret SET secret = ?", (_SECRET,))
            for statement in (*statements_for(metadata), *KEPT_ROWS, *INTEGERS):
                connection.execute(statement)
            connection.commit()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def forget_targets(self) -> None:
        """Delete the records of exchanges and queues, so that each source registers again."""
        for name in (PRODUCERS, CONSUMERS):
            with closing(sqlite3.connect(self.directory / name)) as connection:
                connection.execute("DELETE FROM outbox_targets")
                connection.commit()

    def fresh(self, name: str) -> Path:
        """The path of a migrated, empty database."""
        path = self.directory / name
        for debris in self.directory.glob(f"{name}-*"):
            debris.unlink()
        shutil.copyfile(self._migrated, path)
        return path


@contextmanager
def temporary_database_files() -> Iterator[DatabaseFiles]:
    """Files in a directory that is removed at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="outbox-simulation-") as directory:
        yield DatabaseFiles(Path(directory))
