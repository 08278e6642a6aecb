"""
Fill in the password hashes of `definitions.json`, with no other program than Python.

    python deploy/rabbitmq/password_hashes.py DIRECTORY < definitions.json > with-hashes.json

DIRECTORY has a file for each user, with the name of the user and the password in it. White space
around a password is removed. The result holds no password, but guard it: hashes can be guessed at.
"""

import base64
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

ALGORITHM = "rabbit_password_hashing_sha256"
SALT_BYTES = 4


class PasswordFileError(Exception):
    """A user has no usable password file; the text names the file."""


def with_hashes(definitions: dict[str, Any], directory: Path) -> dict[str, Any]:
    """
    Return *definitions* in which each user has the hash of the password in *directory*.

    Raises PasswordFileError if a user has no file there, or an empty one.
    """
    users = [
        {
            **user,
            "password_hash": password_hash(_password(directory / user["name"])),
            "hashing_algorithm": ALGORITHM,
        }
        for user in definitions["users"]
    ]
    return {**definitions, "users": users}


def password_hash(password: str) -> str:
    """Return the hash of *password* in RabbitMQ's format, with a new salt."""
    salt = os.urandom(SALT_BYTES)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _password(file: Path) -> str:
    try:
        password = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise PasswordFileError(f"{file}: cannot be read as text") from None
    if not password:
        raise PasswordFileError(f"{file}: is empty")
    return password


def main(arguments: list[str]) -> int:
    """Read definitions from standard input, and print them with hashes; return an exit code."""
    match arguments:
        case [directory]:
            pass
        case _:
            print("usage: password_hashes.py DIRECTORY < definitions.json", file=sys.stderr)
            return 2
    try:
        filled = with_hashes(json.load(sys.stdin), Path(directory))
    except PasswordFileError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (ValueError, TypeError, KeyError):
        print("error: standard input has no definitions with users", file=sys.stderr)
        return 2
    print(json.dumps(filled, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
