"""
`examples/aws_kms.py` with the KMS of moto: a server that encrypts as KMS does.
"""

import base64
import importlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from outbox.encryption.keys import KeysUnavailable, UnknownKey, WrappedKey, WrongKey
from outbox.errors import ConfigurationError
from outbox.key_operations.wrapped_again import wrapped_again
from tests.support.encrypted_rows import a_row, opened
from tests.support.processes import ChildProcess
from tests.support.servers.ports import free_port

KEY = b"k" * 32


@pytest.fixture
async def server(
    kms_packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ChildProcess]:
    """Run moto's server, to which boto3 of the test is directed."""
    port = free_port()
    monkeypatch.syspath_prepend(kms_packages)
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    log = tmp_path / "moto.log"
    async with ChildProcess(command, log=log, env={"PYTHONPATH": str(kms_packages)}) as running:
        await running.wait_for_line("Running on", within=30)
        yield running


@pytest.fixture
def example(server: ChildProcess) -> ModuleType:
    """The example, which needs boto3."""
    return importlib.reload(importlib.import_module("examples.aws_kms"))


@pytest.fixture
def service(server: ChildProcess) -> Any:
    """The service as an administrator uses it."""
    return importlib.import_module("boto3").client("kms")


def new_key(service: Any) -> str:
    key_id: str = service.create_key()["KeyMetadata"]["KeyId"]
    return key_id


def environment(example: ModuleType, tmp_path: Path, key_id: str) -> dict[str, str]:
    file = tmp_path / "digest.kms"
    file.write_bytes(base64.b64encode(example.new_digest_key(key_id)))
    return {"KMS_KEY_ID": key_id, "KMS_DIGEST_KEY_FILE": str(file)}


async def test_a_producer_and_a_consumer_share_keys_that_never_leave_the_service(
    example, service, tmp_path, server
):
    old, new = new_key(service), new_key(service)
    service.create_alias(AliasName="alias/outbox", TargetKeyId=old)
    settings = environment(example, tmp_path, "alias/outbox")
    producer, consumer = example.keys(settings), example.keys(settings)

    row = a_row(producer)

    assert b"canary" in opened(row, row["body"], consumer)
    assert producer.digest_key() == consumer.digest_key()
    wrapped = producer.wrap(KEY)
    assert wrapped.key_id == old
    service.update_alias(AliasName="alias/outbox", TargetKeyId=new)
    again = wrapped_again(consumer, wrapped)
    assert isinstance(again, WrappedKey)
    assert (again.key_id, consumer.unwrap(again)) == (new, KEY)

    changed = wrapped.wrapped[:-1] + bytes([wrapped.wrapped[-1] ^ 1])
    of_digest = example.new_digest_key(old)
    for other in (changed, of_digest, b"no ciphertext"):
        with pytest.raises(WrongKey):
            consumer.unwrap(WrappedKey(old, other))
    # AWS answers IncorrectKeyException, and moto AccessDeniedException.
    with pytest.raises((WrongKey, KeysUnavailable)):
        consumer.unwrap(WrappedKey(new, wrapped.wrapped))
    with pytest.raises(UnknownKey):
        consumer.unwrap(WrappedKey("00000000-0000-0000-0000-000000000000", wrapped.wrapped))

    server.close()
    with pytest.raises(KeysUnavailable, match="cannot be reached"):
        producer.wrap(KEY)


def test_settings_that_cannot_work_are_named(example, service, tmp_path, monkeypatch):
    with monkeypatch.context() as without:
        without.delenv("AWS_REGION")
        without.delenv("AWS_DEFAULT_REGION")
        with pytest.raises(ConfigurationError, match="AWS_DEFAULT_REGION: is not set"):
            example.new_digest_key("alias/outbox")
    good = environment(example, tmp_path, new_key(service))
    plain = tmp_path / "plain"
    plain.write_text("bm8ga2V5")
    for changes, named in (
        ({"KMS_KEY_ID": ""}, "KMS_KEY_ID: is not set"),
        ({"KMS_DIGEST_KEY_FILE": "/missing"}, "KMS_DIGEST_KEY_FILE: cannot be read"),
        ({"KMS_DIGEST_KEY_FILE": str(plain)}, "KMS_DIGEST_KEY_FILE: KMS did not encrypt it"),
    ):
        with pytest.raises(ConfigurationError, match=named):
            example.keys({**good, **changes})
    with pytest.raises(KeysUnavailable, match="KMS_KEY_ID") as refused:
        example.keys({**good, "KMS_KEY_ID": "alias/missing"}).wrap(KEY)
    assert refused.value.refused
