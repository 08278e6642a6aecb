"""
Files with certificates and keys for TLS: loading them, and what is wrong with them.
"""

import ssl
import time
from pathlib import Path
from typing import TypeAlias

from outbox.errors import ConfigurationError

Stamp: TypeAlias = tuple[tuple[int, ...] | None, ...]

SYSTEM = "system"
"""The name that stands for the authorities of the operating system."""


def context_with(
    setting: str, file: str | None = None, folder: str | None = None
) -> ssl.SSLContext:
    """
    Return a context that verifies servers by the authorities in *file* or *folder*.

    Without both, and for the file `system`, by those of the operating system.
    Raises ConfigurationError, which begins with *setting*, if the file cannot be used.
    """
    if file == SYSTEM:
        file = None
    if folder is not None and not Path(folder).is_dir():
        # OpenSSL reads it when a certificate is verified, and ignores that it does not exist.
        raise ConfigurationError(f"{setting}: the directory does not exist")
    try:
        context = ssl.create_default_context(cafile=file, capath=folder)
    except OSError as error:
        raise ConfigurationError(f"{setting}: {_problem(error)}") from None
    if file is not None:
        _check_dates(setting, context)
    return context


def load_certificate(
    setting: str, context: ssl.SSLContext, certificate: str, key: str | None
) -> None:
    """
    Let *context* show the *certificate* of the client, with its *key*.

    Raises ConfigurationError, which begins with *setting*, if a file cannot be used.
    """
    try:
        # An empty password keeps OpenSSL from asking for one on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        problem = _missing(certificate, key) or _problem(error)
        raise ConfigurationError(f"{setting}: {problem}") from None
    except OSError as error:
        raise ConfigurationError(f"{setting}: {_problem(error)}") from None


def stamp_of(*files: str | None) -> Stamp:
    """
    Return a value that differs after one of *files* was changed or replaced, or a link to it.

    `system` is the file and the folder of the authorities of the operating system, and None no
    file.
    """
    return tuple(_stamp(Path(path)) for file in files for path in _paths(file))


def _paths(file: str | None) -> list[str]:
    if file != SYSTEM:
        return [] if file is None else [file]
    found = ssl.get_default_verify_paths()
    return [path for path in (found.cafile, found.capath) if path]


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _check_dates(setting: str, context: ssl.SSLContext) -> None:
    ends = [
        ssl.cert_time_to_seconds(str(authority["notAfter"]))
        for authority in context.get_ca_certs()
    ]
    if ends and max(ends) < time.time():
        raise ConfigurationError(f"{setting}: all authorities in the file have expired")


def _missing(certificate: str, key: str | None) -> str | None:
    """Return what the files lack, if it is the certificate or the key."""
    if b" CERTIFICATE-----" not in Path(certificate).read_bytes():
        return "the file of the certificate has no certificate in PEM format"
    if b" PRIVATE KEY-----" in Path(key or certificate).read_bytes():
        return None
    if key is None:
        return "the file of the certificate has no key in PEM format: name a file with the key"
    return "the file of the key has no key in PEM format"


def _problem(error: OSError) -> str:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return "the file does not exist"
        case IsADirectoryError():
            return "is a directory instead of a file"
        case PermissionError():
            return "this user may not read the file"
        case ssl.SSLError(reason="KEY_VALUES_MISMATCH"):
            return "certificate and key do not belong together"
        case ssl.SSLError():
            return "the file has no certificate or key in PEM format, or is encrypted"
        case _:
            return "the file cannot be read"
