"""
Settings in files of one directory, a file for each, as Docker and Kubernetes mount secrets.

The name of a file is that of its setting, in any letter case. Other files are no settings. The
environment and `.env` take precedence over these files.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
)

from outbox.mounted_secrets import DIRECTORY, USUAL
from outbox.setting_variables import PREFIX

SETTING = DIRECTORY


@dataclass(frozen=True, slots=True)
class SecretFiles:
    """The *names* of the files in *directory* with the prefix MQ_, and *problems* by setting."""

    directory: Path | None
    names: tuple[str, ...]
    problems: Mapping[str, str]


def find(given: str | None) -> SecretFiles:
    """
    Find the files in the directory that MQ_SECRETS_DIR names by *given*.

    Without it in the usual directory, if this user may read that. A problem is a line that names
    the file and nothing that stands in it.
    """
    if given is None and not os.access(USUAL, os.R_OK | os.X_OK):
        return SecretFiles(None, (), {})
    directory = USUAL if given is None else Path(given).expanduser()
    try:
        paths = sorted(each for each in directory.iterdir() if _has_prefix(each.name))
    except OSError as error:
        return SecretFiles(None, (), {SETTING: f"{SETTING}: {_problem_of_directory(error)}"})
    problems = {
        path.name.upper(): f"{path.name} in {directory}: {problem}"
        for path in paths
        for problem in _problems(path, directory)
    }
    return SecretFiles(directory, tuple(path.name for path in paths), problems)


class SettingsWithSecretFiles(BaseSettings):
    """Settings that are read from such files too."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources, from the one that takes precedence."""
        del file_secret_settings
        sources = (init_settings, env_settings, dotenv_settings)
        given = [_value(each) for each in (env_settings, dotenv_settings)]
        found = find(next((each for each in given if each is not None), None))
        if found.directory is None or found.problems:
            return sources
        return (*sources, SecretsSettingsSource(settings_cls, secrets_dir=found.directory))


def _value(source: PydanticBaseSettingsSource) -> str | None:
    variables = source.env_vars if isinstance(source, EnvSettingsSource) else {}
    return variables.get(SETTING.lower())


def _has_prefix(name: str) -> bool:
    return name.upper().startswith(PREFIX)


def _problems(path: Path, directory: Path) -> Iterator[str]:
    try:
        target = path.resolve(strict=True)
        if not target.is_file():
            yield "is no file"
        elif directory.resolve() not in target.parents:
            # pydantic-settings ignores such a file.
            yield "is a link to a file outside of the directory"
        else:
            path.read_text(encoding="utf-8")
    except FileNotFoundError:
        yield "is a link to a file that does not exist"
    except PermissionError:
        yield "this user may not read the file"
    except (OSError, RuntimeError):  # before Python 3.13 a link to itself is a RuntimeError
        yield "cannot be read"
    except UnicodeDecodeError:
        yield "is not UTF-8 text"


def _problem_of_directory(error: OSError) -> str:
    match error:
        case FileNotFoundError():
            return "the directory does not exist"
        case NotADirectoryError():
            return "is a file instead of a directory"
        case PermissionError():
            return "this user may not read the directory"
        case _:
            return "the directory cannot be read"
