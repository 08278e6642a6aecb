from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.servers import NotOursError, RabbitmqServer
from tests.support.servers.choice import (
    Contained,
    Given,
    Installable,
    Missing,
    Private,
    Product,
    ServerMissingError,
    choose,
    described,
    named_programs,
)
from tests.support.servers.instance import GivenInstance

BINARIES = Path("/opt/broker/bin")
URL = "amqp://user:secret@host"
PRODUCT = Product(
    name="Broker",
    variable="BROKER_URL",
    directory_variable="BROKER_BIN",
    programs=("broker", "broker-env"),
    image="broker:4",
    package="broker-server",
    binaries=lambda: BINARIES,
)


def choice(
    *,
    url: str = "",
    directory: str = "",
    engine: bool = True,
    binaries: Path | None = BINARIES,
    packages: bool = True,
):
    environment = {PRODUCT.variable: url, PRODUCT.directory_variable: directory}
    return choose(
        PRODUCT, environment=environment, engine=engine, binaries=binaries, packages=packages
    )


def test_a_server_named_by_the_environment_is_preferred_to_all_others():
    assert choice(url=URL) == Given(URL)


def test_a_directory_named_by_the_environment_is_preferred_to_all_but_a_server():
    assert choice(directory="/opt/older") == Private(Path("/opt/older"))
    assert choice(directory="/opt/older", url=URL) == Given(URL)


def test_a_named_directory_without_a_program_is_reported_with_its_variable(tmp_path):
    environment = {PRODUCT.directory_variable: str(tmp_path)}
    (tmp_path / "broker").touch()

    assert named_programs(PRODUCT, {}) is None
    with pytest.raises(ServerMissingError, match=r"that BROKER_BIN names has no broker-env\."):
        named_programs(PRODUCT, environment)
    (tmp_path / "broker-env").touch()
    assert named_programs(PRODUCT, environment) == tmp_path


def test_one_of_the_programs_of_a_named_directory_suffices_where_any_does(tmp_path):
    product = replace(PRODUCT, any_program=True)
    environment = {PRODUCT.directory_variable: str(tmp_path)}

    with pytest.raises(ServerMissingError, match=r"that BROKER_BIN names has no broker\."):
        named_programs(product, environment)
    (tmp_path / "broker-env").touch()
    assert named_programs(product, environment) == tmp_path


def test_docker_is_preferred_to_a_program_of_the_machine():
    assert choice() == Contained("broker:4")


def test_a_program_of_the_machine_is_preferred_to_a_package():
    assert choice(engine=False) == Private(BINARIES)


def test_a_package_is_installed_only_without_any_other_source():
    assert choice(engine=False, binaries=None) == Installable("broker-server")


def test_a_server_without_any_source_is_missing():
    assert choice(engine=False, binaries=None, packages=False) == Missing()


def test_a_missing_server_is_reported_with_every_remedy():
    message = str(ServerMissingError(PRODUCT))

    assert "The tests need Broker and found none." in message
    for remedy in ("BROKER_URL", "BROKER_BIN", "broker:4", "apt-get install broker-server"):
        assert remedy in message


def test_the_header_of_a_run_does_not_show_passwords():
    assert described(PRODUCT, Given(URL)) == "Broker: given by BROKER_URL"


async def test_no_alarm_is_raised_on_an_external_server():
    given = GivenInstance("OUTBOX_TEST_BROKER_URL")
    server = RabbitmqServer("amqp://localhost", "http://localhost:15672", given)

    with pytest.raises(NotOursError, match=r"rabbitmqctl .* OUTBOX_TEST_BROKER_URL"):
        async with server.memory_alarm():
            pytest.fail("raised an alarm")
