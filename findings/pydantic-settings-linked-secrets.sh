#!/usr/bin/env bash
# A secret in a file that is a link out of `secrets_dir` is ignored, and the default value applies.
#
# Seen with pydantic-settings 2.16.3 (2.16.2 still read the file), 2026-11. A setting has a default,
# and `secrets_dir` has a file of its name:
#
#   a regular file                                              is read
#   a volume of Kubernetes: password -> ..data/password,
#   and ..data -> ..<time>, all within the directory            is read
#   a directory that is itself a link to such a one             is read
#   password -> a file, or ..data -> a folder, elsewhere        is ignored, with a UserWarning
#
# The last is the form of a link that an init container or a deployment script makes, to give the
# file the name that a setting has. `-W ignore`, or a log that takes no warnings, hides it all.
#
# One would guess otherwise: the file exists and can be read, and the release before read it. If
# such links are not to be trusted, one expects an error, as for a `secrets_dir` that is a file.
# The default address or password is used instead, so that a program starts after an update of the
# third digit, and connects to another server than it was told.
#
# So a program checks its secret files before it reads the settings, or gives no defaults to
# settings that are secrets.
#
# Needs Python 3.11 or newer. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check --quiet install pydantic-settings==2.16.3 2>/dev/null ||
  { echo "the packages are missing" >&2; exit 3; }

mkdir "$folder/secrets"
cd "$folder/secrets"
mkdir file kubernetes kubernetes/..2026_11_30 linked_file linked_data
echo given >file/password
echo given >kubernetes/..2026_11_30/password
ln -s ..2026_11_30 kubernetes/..data
ln -s ..data/password kubernetes/password
ln -s kubernetes linked_directory
ln -s ../file/password linked_file/password
ln -s ../file linked_data/..data
ln -s ..data/password linked_data/password

timeout 60 "$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import warnings
from pathlib import Path

from pydantic_settings import BaseSettings


class Settings(BaseSettings):
    password: str = "default"


def read(directory):
    """The value of the setting, and the classes of the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = Settings(_secrets_dir=directory).password
    return value, [each.category.__name__ for each in caught]


SEEN = {
    "file": ("given", []),
    "kubernetes": ("given", []),
    "linked_directory": ("given", []),
    "linked_file": ("default", ["UserWarning"]),
    "linked_data": ("default", ["UserWarning"]),
}
print("pydantic-settings", importlib.metadata.version("pydantic-settings"))
for directory, seen in SEEN.items():
    assert Path(directory, "password").read_text().strip() == "given"
    found = read(directory)
    print(f"{directory:17} {found[0]:8} {found[1]}")
    assert found == seen, (directory, found)
PYTHON
