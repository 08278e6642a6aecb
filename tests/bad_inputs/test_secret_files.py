"""
Settings in files, as Docker and Kubernetes mount secrets.
"""

import os
import socket
from pathlib import Path

import pytest

from outbox import secret_files
from outbox.cli.start import setting_warnings
from outbox.errors import ConfigurationError
from outbox.settings import load
from relay.settings import RelaySettings
from tests.support.commands import CommandLine

SECRET = "hunter2-of-the-test"
URL = f"postgresql://app:{SECRET}@127.0.0.1/app"


@pytest.fixture
def secrets(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MQ_SECRETS_DIR", str(folder))
    return folder


def refusal() -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(RelaySettings)
    assert SECRET not in str(caught.value)
    return str(caught.value).splitlines()


def test_settings_are_read_from_files_of_their_names(secrets):
    (secrets / "mq_database_url").write_text(f"{URL}\n")
    (secrets / "MQ_BATCH_SIZE").write_text("7")
    (secrets / "password_of_another_program").write_text(SECRET)
    (secrets / "kubernetes.io").mkdir()

    loaded = load(RelaySettings)

    assert loaded.database_url.get_secret_value() == URL
    assert loaded.batch_size == 7


def test_files_that_kubernetes_mounts_and_replaces_are_read(secrets):
    (secrets / "..2026_11_30").mkdir()
    (secrets / "..2026_11_30" / "MQ_DATABASE_URL").write_text(URL)
    (secrets / "..data").symlink_to("..2026_11_30")
    (secrets / "MQ_DATABASE_URL").symlink_to("..data/MQ_DATABASE_URL")

    assert load(RelaySettings).database_url.get_secret_value() == URL


def test_files_in_the_directory_of_docker_are_read_without_a_setting(secrets, monkeypatch):
    monkeypatch.delenv("MQ_SECRETS_DIR")
    monkeypatch.setattr(secret_files, "USUAL", secrets)
    (secrets / "mq_database_url").write_text(URL)

    assert load(RelaySettings).database_url.get_secret_value() == URL


def test_no_directory_of_docker_is_needed(secrets, monkeypatch):
    monkeypatch.delenv("MQ_SECRETS_DIR")
    monkeypatch.setattr(secret_files, "USUAL", secrets / "missing")

    assert load(RelaySettings).batch_size == RelaySettings.model_fields["batch_size"].default


def test_a_directory_may_be_named_in_the_file_of_settings(secrets, monkeypatch):
    monkeypatch.delenv("MQ_SECRETS_DIR")
    Path(".env").write_text("MQ_SECRETS_DIR=secrets\n")
    (secrets / "mq_database_url").write_text(URL)

    assert load(RelaySettings).database_url.get_secret_value() == URL


@pytest.mark.parametrize("place", ["environment", "file"])
def test_environment_and_file_of_settings_take_precedence_with_a_warning(
    secrets, monkeypatch, place
):
    (secrets / "mq_batch_size").write_text("7")
    if place == "environment":
        monkeypatch.setenv("MQ_BATCH_SIZE", "8")
    else:
        Path(".env").write_text("MQ_BATCH_SIZE=8\n")

    loaded = load(RelaySettings)

    assert loaded.batch_size == 8
    assert (
        f"mq_batch_size in {secrets}: ignored, since the environment or .env has this setting"
    ) in setting_warnings(loaded)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("mq_database_url", SECRET.encode(), "is not a URL, as sqlite:"),
        ("mq_database_url", b"", "is empty: "),
        ("mq_database_url", f"mysql://app:{SECRET}@h/app".encode(), "scheme must be postgresql"),
        ("mq_batch_size", SECRET.encode(), "must be a whole number"),
        ("mq_broker_url", SECRET.encode() + b"\xff", "is not UTF-8 text"),
        ("mq_databse_url", SECRET.encode(), "there is no such setting: do you mean MQ_DATABASE_"),
    ],
)
def test_an_error_names_the_file_and_not_its_content(secrets, name, content, problem):
    (secrets / name).write_bytes(content)

    [line] = refusal()
    assert line.startswith(f"{name} in {secrets}: {problem}")


def _a_folder(path: Path) -> None:
    path.mkdir()


def _a_link_to_nothing(path: Path) -> None:
    path.symlink_to("missing")


def _a_link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def _a_link_to_another_place(path: Path) -> None:
    other = path.parent.parent / "other"
    other.write_text(URL)
    path.symlink_to(other)


def _a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (_a_folder, "is no file"),
        (_a_socket, "is no file"),
        (_a_link_to_nothing, "is a link to a file that does not exist"),
        (_a_link_to_itself, "cannot be read"),
        (_a_link_to_another_place, "is a link to a file outside of the directory"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(secrets, make, problem):
    make(secrets / "mq_database_url")

    assert refusal() == [f"mq_database_url in {secrets}: {problem}"]


def test_a_file_that_this_user_may_not_read_is_named(secrets, monkeypatch):
    (secrets / "mq_database_url").write_text(URL)
    read_text = Path.read_text

    def refusing(path: Path, **options: str) -> str:
        if path.name == "mq_database_url":
            raise PermissionError
        return read_text(path, **options)

    monkeypatch.setattr(Path, "read_text", refusing)

    assert refusal() == [f"mq_database_url in {secrets}: this user may not read the file"]


def test_two_files_of_one_setting_are_refused(secrets):
    for name in ("mq_batch_size", "MQ_BATCH_SIZE"):
        (secrets / name).write_text("7")

    assert refusal() == ["MQ_BATCH_SIZE: is set twice, in different letter case: remove one"]


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (os.rmdir, "the directory does not exist"),
        (lambda path: (path.rmdir(), path.write_text(SECRET)), "is a file instead of a directory"),
    ],
)
def test_a_directory_that_cannot_be_read_is_a_line(secrets, make, problem):
    make(secrets)

    assert refusal() == [f"MQ_SECRETS_DIR: {problem}"]


def test_a_command_works_with_a_secret_in_a_file(secrets, tmp_path):
    (secrets / "mq_database_url").write_text(f"sqlite:///{tmp_path}/of-the-file.db\n")

    done = CommandLine(tmp_path)("relay", "migrate", MQ_SECRETS_DIR="secrets")

    assert (done.code, done.err) == (0, "")
    assert (tmp_path / "of-the-file.db").exists()
