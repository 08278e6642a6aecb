"""
RabbitMQ's own parser reads the files of deploy/rabbitmq, and knows each key in them.
"""

import subprocess

import pytest

from tests.support.installation import DEPLOY
from tests.support.servers.fleet import RABBITMQ
from tests.support.tls import Authority

FILES = ("rabbitmq.conf", "tls.conf", "cluster.conf")
CERTIFICATES = "/etc/rabbitmq/tls/"
PARSE = "cuttlefish_escript:main([{words}]), halt(0)."


def parse(directory, configuration):
    """What the parser says about *configuration*, and what it makes of it for Erlang."""
    plugins = RABBITMQ.programs().parent / "plugins"
    schemas, made = directory / "schemas", directory / "made"
    for each in (schemas, made):
        each.mkdir()
    for schema in plugins.glob("*/priv/schema/*.schema"):
        (schemas / schema.name).symlink_to(schema)
    file = directory / "all.conf"
    file.write_text(configuration)
    options = {"-e": made, "-d": made, "-s": schemas, "-c": file}
    words = ",".join(f'"{word}"' for option in options.items() for word in option)
    done = subprocess.run(
        [
            *("erl", "-noinput"),
            *(word for code in plugins.glob("*/ebin") for word in ("-pa", code)),
            *("-eval", PARSE.format(words=f'{words},"generate"')),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout, "".join(each.read_text() for each in made.glob("*.config"))


@pytest.fixture
def configuration(tmp_path):
    """All files together, with certificates, since newer parsers read them."""
    certificates = tmp_path / "tls"
    certificates.mkdir()
    pair = Authority(certificates, "ca.crt").pair("rabbitmq.example")
    pair.certificate.rename(certificates / "tls.crt")
    pair.key.rename(certificates / "tls.key")
    text = "\n".join((DEPLOY / "rabbitmq" / name).read_text() for name in FILES)
    return text.replace(CERTIFICATES, f"{certificates}/")


def test_rabbitmq_takes_all_files_together(configuration, tmp_path):
    commented = ("ssl_options.verify", "ssl_options.fail_if_no_peer_cert")
    for line in commented:
        configuration = configuration.replace(f"# {line}", line)

    said, made = parse(tmp_path, configuration)

    assert "[error]" not in said
    assert "{pause_minority" in made or "pause_minority}" in made
    assert "{fail_if_no_peer_cert,true}" in made
    assert '{loopback_users,[<<"guest">>]}' in made


def test_an_unknown_key_is_found(configuration, tmp_path):
    said, made = parse(tmp_path, f"{configuration}\nlisteners.sll.default = 5671\n")

    assert "listeners.sll.default" in said
    assert made == ""
