"""
Files of TLS that are replaced while a process runs.
"""

import os
import ssl
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from outbox import certificate_expiry
from outbox.errors import ConfigurationError
from outbox.postgres_server import server_of
from outbox.postgres_tls import TlsArgument
from outbox.tls_files import SYSTEM, stamp_of
from tests.support.certificates import Authority


@pytest.fixture(autouse=True)
def _none_known(monkeypatch):
    monkeypatch.setattr(certificate_expiry, "_FILES", {})


def test_a_stamp_differs_after_a_change_a_rename_and_another_target_of_a_link(tmp_path: Path):
    first, second, link = tmp_path / "1", tmp_path / "2", tmp_path / "link"
    first.write_text("one")
    second.write_text("two")
    link.symlink_to(first)
    stamps = [stamp_of(str(link), None)]
    stamps.append(stamp_of(str(link), None))

    (tmp_path / "new").symlink_to(second)
    (tmp_path / "new").rename(link)
    stamps.append(stamp_of(str(link), None))
    second.write_text("three")
    stamps.append(stamp_of(str(link), None))
    first.rename(second)
    stamps.append(stamp_of(str(link), None))
    link.unlink()
    stamps.append(stamp_of(str(link), None))

    assert stamps[0] == stamps[1]
    assert len(set(stamps[1:])) == 5
    assert stamps[-1] == (None,)
    assert stamp_of(SYSTEM) != ()


def test_files_of_a_database_are_read_again_only_when_one_was_replaced(tmp_path: Path):
    authority = Authority(tmp_path)
    pair = authority.pair("client.example")
    url = make_url(
        f"postgresql://u@h/x?sslmode=verify-full&sslrootcert={authority.path}"
        f"&sslcert={pair.certificate}&sslkey={pair.key}"
    )
    argument = TlsArgument(server_of(url, {}))
    before = argument.now()
    assert isinstance(before, ssl.SSLContext)
    assert argument.now() is before

    pair.replace_by(Authority(tmp_path, "other.pem").pair("client.example"))
    after = argument.now()
    assert after is not before
    assert argument.now() is after

    key = pair.key.read_bytes()
    pair.key.write_text("half a fi")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="no key in PEM format"):
            argument.now()
    pair.key.write_bytes(key)
    assert isinstance(argument.now(), ssl.SSLContext)


def test_a_server_without_tls_reads_no_file():
    argument = TlsArgument(server_of(make_url("postgresql://u@h/x?sslmode=disable"), os.environ))

    assert argument.now() is False
