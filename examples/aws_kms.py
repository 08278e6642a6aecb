"""
Keys in AWS KMS: key-encryption keys never leave the service.

    MQ_ENCRYPTION_KEYS=python:examples.aws_kms:keys
    KMS_KEY_ID=alias/outbox                      the key that encrypts, or its alias
    KMS_DIGEST_KEY_FILE=/etc/outbox/digest.kms   the digest key, encrypted by KMS

`python -m examples.aws_kms` prints a new digest key for that file, once. Region, credentials and
endpoint are those of boto3: AWS_DEFAULT_REGION, a role, AWS_ENDPOINT_URL_KMS.

A process calls KMS for each data key: a producer every five minutes, a consumer once for each that
it meets. The rights are kms:Encrypt and kms:Decrypt. With the yearly rotation by AWS the key keeps
its id, and there is nothing to do; after the alias names another key, run `relay keys rewrap`.
"""

import base64
import binascii
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import boto3  # pyright: ignore[reportMissingImports]
from botocore.config import Config  # pyright: ignore[reportMissingImports]
from botocore.exceptions import (  # pyright: ignore[reportMissingImports]
    BotoCoreError,
    ClientError,
    NoRegionError,
)

from outbox.encryption.keys import KeysUnavailable, UnknownKey, WrappedKey, WrongKey
from outbox.errors import ConfigurationError

_DATA_KEY = {"outbox-relay": "data key"}
_DIGEST_KEY = {"outbox-relay": "digest key"}
"""Encryption contexts: KMS binds a ciphertext to its purpose."""

# A call takes 10 seconds at most: two attempts of connect and read.
_LIMITS = Config(connect_timeout=2, read_timeout=3, retries={"total_max_attempts": 2})

_WRONG = {"InvalidCiphertextException", "IncorrectKeyException"}


class AwsKms:
    """
    The key *key_id* of AWS KMS, or its alias, and the *digest_key* as KMS has encrypted it.

    Raises UnknownKey, WrongKey and KeysUnavailable.
    """

    def __init__(self, key_id: str, digest_key: bytes) -> None:
        self._key_id = key_id
        self._digest_key = _decrypt(digest_key, _DIGEST_KEY)

    def digest_key(self) -> bytes:
        """Return the digest key, which was decrypted at start."""
        return self._digest_key

    def wrap(self, key: bytes, /) -> WrappedKey:
        """Encrypt *key* with the key that KMS_KEY_ID names now."""
        return _encrypt(self._key_id, key, _DATA_KEY)

    def unwrap(self, wrapped: WrappedKey, /) -> bytes:
        """Decrypt *wrapped* with the key that it names, and no other one."""
        return _decrypt(wrapped.wrapped, _DATA_KEY, KeyId=wrapped.key_id)


def new_digest_key(key_id: str) -> bytes:
    """Return a random digest key as the key *key_id* encrypts it; raises KeysUnavailable."""
    return _encrypt(key_id, os.urandom(32), _DIGEST_KEY).wrapped


def keys(environment: Mapping[str, str] = os.environ) -> AwsKms:
    """
    Return the keys that KMS_KEY_ID and KMS_DIGEST_KEY_FILE name.

    Raises ConfigurationError and KeysUnavailable.
    """
    key_id = _variable(environment, "KMS_KEY_ID")
    file = Path(_variable(environment, "KMS_DIGEST_KEY_FILE"))
    try:
        return AwsKms(key_id, base64.b64decode(file.read_bytes()))
    except (OSError, binascii.Error) as error:
        raise ConfigurationError(
            f"KMS_DIGEST_KEY_FILE: cannot be read ({type(error).__name__})"
        ) from None
    except (UnknownKey, WrongKey):
        raise ConfigurationError("KMS_DIGEST_KEY_FILE: KMS did not encrypt it") from None


def _variable(environment: Mapping[str, str], name: str) -> str:
    if not environment.get(name):
        raise ConfigurationError(f"{name}: is not set")
    return environment[name]


def _encrypt(key_id: str, plaintext: bytes, context: Mapping[str, str]) -> WrappedKey:
    try:
        answer = _call("encrypt", KeyId=key_id, Plaintext=plaintext, EncryptionContext=context)
    except UnknownKey:
        raise KeysUnavailable("KMS_KEY_ID: AWS KMS has no such key", refused=True) from None
    # The ARN that KMS answers with ends with the id, also if an alias was given.
    return WrappedKey(answer["KeyId"].rpartition("/")[2], answer["CiphertextBlob"])


def _decrypt(ciphertext: bytes, context: Mapping[str, str], **key: str) -> bytes:
    answer = _call("decrypt", CiphertextBlob=ciphertext, EncryptionContext=context, **key)
    plaintext: bytes = answer["Plaintext"]
    return plaintext


def _call(operation: str, **arguments: Any) -> Any:
    try:
        return getattr(_client(os.getpid()), operation)(**arguments)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "NotFoundException":
            raise UnknownKey from None
        if code in _WRONG:
            raise WrongKey from None
        # A key that is disabled, a missing right, too many calls: a person or time helps.
        raise KeysUnavailable(f"AWS KMS refuses to {operation} ({code})") from None
    except NoRegionError:
        raise ConfigurationError("AWS_DEFAULT_REGION: is not set") from None
    except BotoCoreError as error:
        raise KeysUnavailable(f"AWS KMS cannot be reached ({type(error).__name__})") from None


@cache
def _client(_process: int) -> Any:
    """The client of this process: one that was forked must not share its connections."""
    return boto3.client("kms", config=_LIMITS)


if __name__ == "__main__":
    print(base64.b64encode(new_digest_key(os.environ["KMS_KEY_ID"])).decode())
