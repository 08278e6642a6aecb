"""
`python -m tests.versions`: tests that use Postgres, with each version that package.json names.

    python -m tests.versions                   all versions, in some minutes each
    python -m tests.versions 14 18             these versions
    python -m tests.versions --smoke           a few tests, in seconds each
    python -m tests.versions 14 -- -k main     the rest is for pytest

The exit status is 1 if a test does not pass, and 2 if a version is not there.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.other_clients.installation import InstallationError
from tests.support.pages import REPOSITORY
from tests.versions import installation
from tests.versions.report import Finding, read, table

SELECTION = (
    "tests/contracts",
    "tests/migrations",
    "tests/bad_inputs/test_tls.py",
    "tests/integration/test_certificate_rotation.py",
    "tests/integration/test_consumer.py",
    "tests/integration/test_main_job.py",
    "tests/integration/test_relay.py",
    "tests/integration/test_relay_and_postgres.py",
    "tests/integration/test_relay_and_rabbitmq.py",
    "tests/integration/test_relay_sessions.py",
)
SMOKE = (
    "tests/contracts/test_outbox_store.py",
    "tests/contracts/test_dedup_store.py",
    "tests/integration/test_relay_and_postgres.py",
    "tests/migrations/test_outbox_add.py",
)


def main(words: Sequence[str]) -> int:
    """Run the tests, and return the exit status."""
    own, _, options = " ".join(words).partition(" -- ")
    chosen = [word for word in own.split() if word != "--smoke"]
    selection = SMOKE if "--smoke" in own.split() else SELECTION
    unknown = set(chosen) - set(installation.versions())
    if unknown:
        known = ", ".join(installation.versions())
        print(f"error: VERSIONS: must be some of {known}", file=sys.stderr)
        return 2
    try:
        programs = installation.programs()
    except InstallationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    findings = [
        _run(f"Postgres {version}", programs[version], (*selection, *options.split()))
        for version in chosen or programs
    ]
    print(table(findings))
    return 0 if all(finding.is_good for finding in findings) else 1


def _run(server: str, programs: Path, words: Sequence[str]) -> Finding:
    print(f"{server}: {programs}", flush=True)
    environment = {**os.environ, "OUTBOX_TEST_POSTGRES_BIN": str(programs)}
    # A server that the environment names would come first.
    environment.pop("OUTBOX_TEST_DATABASE_URL", None)
    with tempfile.TemporaryDirectory() as directory:
        results = Path(directory) / "results.xml"
        subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "--durations=0", "--durations-min=30"),
                *("--only-server", "postgres", f"--junitxml={results}", *words),
            ],
            cwd=REPOSITORY,
            env=environment,
            check=False,
        )
        return read(server, results)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
