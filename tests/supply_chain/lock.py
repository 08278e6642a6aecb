"""
`make lock`: writes `requirements/*.txt` and `sbom.cdx.json`. Needs a registry.

    runtime.txt   the image: what the wheel needs with all extras of users
    build.txt     the image: what builds the wheel
    dev.txt       `make install`: the same as runtime.txt, and the tools of development
    docs.txt      `make docs`: the same as runtime.txt, and the site
    tools.txt     `make lock` and `make audit`
    lowest.txt    `make lowest`: the oldest versions of runtime.txt that are allowed, else dev.txt

`tests/benchmarks/peers/` has the locks of the relays that `make bench` compares with, and
`tests/support/other_clients/` those of the clients in `docs/how-to/other-clients.md`, and
`tests/versions/` that of the programs of `make versions`.

Each version has the hashes of its files, so pip refuses any other file. A version stays as it is
until `make lock ARGS=--upgrade`, or until pyproject.toml does not allow it any more.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
SBOM = ROOT / "sbom.cdx.json"
PEERS = ROOT / "tests" / "benchmarks" / "peers"
OTHER_CLIENTS = ROOT / "tests" / "support" / "other_clients"
OTHER_VERSIONS = ROOT / "tests" / "versions"
OLDEST_PYTHON = "3.11"
PYTHON_OF_PEER = {"omni_box": "3.12"}  # the others run on the oldest
HEADER = "make lock"

_BIN = Path(sys.executable).parent


def main(*options: str) -> None:
    """Write all locks, then the bill of the runtime; *options* are for `uv pip compile`."""
    REQUIREMENTS.mkdir(exist_ok=True)
    project = ("pyproject.toml", "--extra", "all")
    _lock("runtime", *project, *options)
    _lock("dev", *project, "--extra", "dev", *options, like="runtime")
    _lock("docs", *project, "--extra", "docs", *options, like="dev")
    _lock("build", "--group", "build", *options, like="dev")
    _lock("tools", "--group", "tools", *options)
    with tempfile.TemporaryDirectory() as directory:
        tools = Path(directory) / "tools.txt"
        tools.write_text("\n".join(_only_in("dev", than="runtime")))
        lowest = ("--extra", "dev", "--resolution", "lowest-direct", "--constraints", str(tools))
        _lock("lowest", *project, *lowest)
        _write_bill(Path(directory) / "runtime")
    for wanted in sorted([*PEERS.glob("*.in"), *OTHER_CLIENTS.glob("*.in")]):
        _lock_peer(wanted, *options)
    _lock_node()


def versions(name: str, *, directory: Path = REQUIREMENTS) -> dict[str, str]:
    """The locked version of each package in the file *name*, without its marker."""
    lines = (directory / f"{name}.txt").read_text().splitlines()
    pins = (line.split()[0].split("==") for line in lines if line[:1].isalnum())
    return {package: version.rstrip(";") for package, version in pins}


def _only_in(name: str, *, than: str) -> list[str]:
    others = versions(than)
    return [f"{each}=={version}" for each, version in versions(name).items() if each not in others]


def _lock(name: str, *arguments: str, like: str | None = None) -> None:
    """Lock one file; packages that it shares with the file *like* get the same versions."""
    same = ("--constraints", str(REQUIREMENTS / f"{like}.txt")) if like else ()
    _compile(REQUIREMENTS / f"{name}.txt", OLDEST_PYTHON, *arguments, *same)


def _lock_peer(wanted: Path, *options: str) -> None:
    """Lock the environment of a peer; drivers have the versions that the product has."""
    same = ("--constraints", str(REQUIREMENTS / "runtime.txt"))
    python = PYTHON_OF_PEER.get(wanted.stem, OLDEST_PYTHON)
    _compile(wanted.with_suffix(".txt"), python, str(wanted), *options, *same)


def _lock_node() -> None:
    """Lock the packages for Node.js, without the address of the registry."""
    options = ("--package-lock-only", "--omit-lockfile-registry-resolved", "--no-audit")
    for folder in (OTHER_CLIENTS, OTHER_VERSIONS):
        subprocess.run(["npm", "install", "--silent", *options], cwd=folder, check=True)


def _compile(lock: Path, python: str, *arguments: str) -> None:
    options = ("--quiet", "--universal", "--generate-hashes", "--no-annotate")
    _run(
        *("uv", "pip", "compile", *options, "--python-version", python),
        *("--custom-compile-command", HEADER, "--output-file", str(lock), *arguments),
    )


def _write_bill(environment: Path) -> None:
    """The bill of an environment that has only the runtime: its packages and their licences."""
    _run("uv", "venv", "--quiet", str(environment))
    python = str(environment / "bin" / "python")
    runtime = str(REQUIREMENTS / "runtime.txt")
    _run("uv", "pip", "install", "--quiet", "--require-hashes", "--python", python, "-r", runtime)
    _run(
        *("cyclonedx-py", "environment", python, "--pyproject", "pyproject.toml"),
        *("--mc-type", "library", "--output-reproducible", "--spec-version", "1.6"),
        *("--output-format", "JSON", "--output-file", str(SBOM)),
    )


def _run(command: str, *arguments: str) -> None:
    subprocess.run([_BIN / command, *arguments], cwd=ROOT, check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
