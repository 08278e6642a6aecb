"""
PgBouncer before the Postgres of the tests.
"""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy.engine import make_url

from tests.support.processes import ChildProcess
from tests.support.servers import packages
from tests.support.servers.isolation import (
    group_of,
    plain_environment,
    private_directory,
    unprivileged_account,
)
from tests.support.servers.ports import free_port

CONFIGURATION = """
[databases]
* = host={host} port={port} user={user} password={password}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = 10
logfile =
"""


@asynccontextmanager
async def pgbouncer(database_url: str, *, mode: str) -> AsyncIterator[str]:
    """Yield the URL of the same database through PgBouncer in this *mode*."""
    url, port, account = make_url(database_url), free_port(), unprivileged_account()
    directory = private_directory(owner=account)
    file = directory / "pgbouncer.ini"
    file.write_text(
        CONFIGURATION.format(
            host=url.host,
            port=url.port,
            user=url.username,
            password=url.password,
            own_port=port,
            mode=mode,
        )
    )
    if account:
        shutil.chown(file, account, group_of(account))
    process = ChildProcess(
        [_program(), file],
        log=directory / "pgbouncer.log",
        env=plain_environment(),
        inherit=False,
        cwd=directory,
        user=account,
    )
    try:
        async with process:
            await process.wait_for_line("process up")
            yield url.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _program() -> Path:
    """The program, which is installed where that is possible."""
    path = plain_environment()["PATH"]
    if shutil.which("pgbouncer", path=path) is None and packages.packages_installable():
        packages.install("pgbouncer")
    found = shutil.which("pgbouncer", path=path)
    assert found, "PgBouncer is missing: install the package pgbouncer"
    return Path(found)
