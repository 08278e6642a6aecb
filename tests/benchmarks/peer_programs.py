"""
The peers of `tests/benchmarks/peers`: installs them, fills their tables, and starts them.

What cannot be installed is left out, and the reason is kept: a missing compiler, a missing
library, an older Python, a registry that does not answer.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import REPOSITORY

CACHE = REPOSITORY / ".venv" / "peers"
FOLDER = Path(__file__).parent / "peers"
FULL_JOB = "C"
LIBRARIES = ("libpq", "librabbitmq")
INSTALL_SECONDS = 300

_BODIES = """
  FROM generate_series(1, $1::int) AS n
  JOIN benchmark_bodies AS stock ON stock.size = 1024 AND stock.n = n.n % 1000
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """
    A relay of others.

    Args:
        name: As its registry has it.
        module: Its file in `peers`, without the suffix.
        python: The oldest Python that it runs on.
        table: The table that it relays.
        fill: Inserts $1 rows into it, as its own producer would.
        lowest: The lowest id from $1 on that is left, if ids grow row by row.
        left: How many rows it still has to publish.

    """

    name: str
    module: str
    python: tuple[int, int]
    table: str
    fill: str
    lowest: str | None
    left: str

    @property
    def lock(self) -> Path:
        """What its environment has."""
        return FOLDER / f"{self.module}.txt"

    @property
    def version(self) -> str:
        """The version that is locked."""
        lines = self.lock.read_text().splitlines()
        [version] = [each.split()[0] for each in lines if each.startswith(f"{self.name}==")]
        return version.partition("==")[2].rstrip(";")


PEERS = (
    Peer(
        "txoutbox",
        "txoutbox",
        (3, 11),
        "peer_txoutbox",
        f"""
        INSERT INTO peer_txoutbox (topic, payload, headers)
        SELECT 'benchmark.row', stock.body, jsonb_build_object('event_id', gen_random_uuid())
        {_BODIES}
        """,
        "SELECT id FROM peer_txoutbox WHERE id >= $1 ORDER BY id LIMIT 1",
        "SELECT count(*) FROM peer_txoutbox",
    ),
    Peer(
        "faststream-outbox",
        "faststream_outbox",
        (3, 11),
        "peer_faststream",
        f"""
        INSERT INTO peer_faststream (queue, payload, headers)
        SELECT 'benchmark', stock.body, jsonb_build_object('event_id', gen_random_uuid())
        {_BODIES}
        """,
        "SELECT id FROM peer_faststream WHERE id >= $1 ORDER BY id LIMIT 1",
        "SELECT count(*) FROM peer_faststream",
    ),
    Peer(
        "omni-box",
        "omni_box",
        (3, 12),
        "outbox_events",
        f"""
        INSERT INTO outbox_events (
            id, event_type, payload, status, attempts_made, max_attempts, scheduled_at,
            aggregate_type, aggregate_id, topic, partition_key
        )
        SELECT made.id, 'benchmark.row', convert_from(made.body, 'UTF8')::jsonb,
               'pending', 0, 5, now(), 'row', made.id, 'benchmark.row', made.id::text
          FROM (SELECT gen_random_uuid() AS id, stock.body {_BODIES}) AS made
        """,
        None,
        "SELECT count(*) FROM outbox_events WHERE status = 'pending'",
    ),
)


@dataclass(frozen=True, slots=True)
class Installed:
    """
    What can be run, and why the rest cannot.

    Args:
        pythons: The interpreter of each peer that is installed, by its name.
        full_job: The program in C, if it was built.
        missing: The reason for each that is not there, by its name.

    """

    pythons: dict[str, Path]
    full_job: Path | None
    missing: dict[str, str]

    @property
    def peers(self) -> Sequence[Peer]:
        """The peers that can be run."""
        return [peer for peer in PEERS if peer.name in self.pythons]

    def versions(self) -> Iterator[tuple[str, str]]:
        """What each is, or why it is left out, by its name."""
        for peer in PEERS:
            if peer.name in self.pythons:
                yield peer.name, f"{peer.version}, {_said(self.pythons[peer.name], '--version')}"
        if self.full_job:
            numbers = (_said("pkg-config", "--modversion", name) for name in LIBRARIES)
            libraries = map(" ".join, zip(LIBRARIES, numbers, strict=True))
            compiler = _said("cc", "--version").partition("\n")[0]
            yield FULL_JOB, ", ".join([*libraries, f"{compiler}, -O2"])
        for name, reason in self.missing.items():
            yield name, f"left out: {reason}"


class Unavailable(Exception):  # noqa: N818 - it is the reason, not an error of the run
    """A peer cannot be installed here."""


def install(*, with_peers: bool) -> Installed:
    """Build the program in C, and make the environment of each peer unless it is there."""
    pythons: dict[str, Path] = {}
    missing: dict[str, str] = {}
    full_job = None
    try:
        full_job = build_full_job(CACHE)
    except Unavailable as reason:
        missing[FULL_JOB] = str(reason)
    for peer in PEERS if with_peers else ():
        try:
            pythons[peer.name] = _installed(peer)
        except Unavailable as reason:
            missing[peer.name] = str(reason)
    if not with_peers:
        missing |= {peer.name: "--no-peers was given" for peer in PEERS}
    return Installed(pythons, full_job, missing)


def build_full_job(directory: Path) -> Path:
    """
    Compile `full_job.c` in *directory*.

    Raises Unavailable if there is no compiler, or a library is missing.
    """
    if not shutil.which("cc"):
        raise Unavailable("there is no C compiler")
    if not shutil.which("pkg-config"):
        raise Unavailable("there is no pkg-config")
    for name in LIBRARIES:
        if subprocess.run(["pkg-config", "--exists", name], check=False).returncode:
            raise Unavailable(f"{name} is not installed (Debian: {name}-dev)")
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / "full_job"
    flags = _said("pkg-config", "--cflags", "--libs", *LIBRARIES).split()
    source = str(FOLDER / "full_job.c")
    _run("cc", "-O2", "-std=gnu11", "-Wall", source, "-o", str(program), *flags)
    return program


def _installed(peer: Peer) -> Path:
    """The interpreter of an environment that has exactly what the lock says."""
    base = _interpreter(peer.python)
    version = _said(base, "--version")
    made_of = hashlib.sha256(peer.lock.read_bytes() + version.encode()).hexdigest()[:12]
    return environment(peer.module, made_of, base, ["-r", str(peer.lock)])


def environment(name: str, made_of: str, base: str, *installations: Sequence[str]) -> Path:
    """
    The interpreter of the environment *name*, which is created again if *made_of* is another.

    Args:
        base: The interpreter that it is made with.
        installations: The arguments of `pip install` for each: a file whose requirements have
            hashes, or a folder, which is installed with what it needs if a file constrains it.

    Raises Unavailable if something cannot be installed.
    """
    directory = CACHE / name
    stamp = directory / "made-of"
    python = directory / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != made_of:
        shutil.rmtree(directory, ignore_errors=True)
        _run(base, "-m", "venv", str(directory))
        for arguments in installations:
            is_folder = Path(arguments[-1]).is_dir()
            options = ["--no-build-isolation" if is_folder else "--require-hashes"]
            options += [] if "--constraint" in arguments else ["--no-deps"]
            pip = (str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install")
            _run(*pip, *options, *arguments)
        stamp.write_text(made_of)
    return python


def _interpreter(oldest: tuple[int, int]) -> str:
    """This interpreter if it is new enough, or the newest other one that is."""
    if sys.version_info[:2] >= oldest:
        return sys.executable
    names = [f"python3.{minor}" for minor in range(14, oldest[1] - 1, -1)]
    homes = sorted(Path("~/.pyenv/versions").expanduser().glob("*/bin"), reverse=True)
    path = os.pathsep.join([os.environ["PATH"], *map(str, homes)])
    for name in names:
        for folder in path.split(os.pathsep):
            found = shutil.which(name, path=folder)
            if found and _runs(found):
                return found
    raise Unavailable(f"it needs Python {oldest[0]}.{oldest[1]}")


def _runs(python: str) -> bool:
    """Whether it is more than a placeholder, as pyenv has them."""
    return not subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode


def _said(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _run(*command: str) -> None:
    try:
        subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=INSTALL_SECONDS
        )
    except subprocess.CalledProcessError as failed:
        lines = failed.stderr.strip().splitlines() or ["no output"]
        raise Unavailable(f"{Path(command[0]).name} failed: {lines[-1]}") from failed
    except subprocess.TimeoutExpired as late:
        raise Unavailable(f"{Path(command[0]).name} took too long") from late
