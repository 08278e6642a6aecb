"""
`make versions`: what it reads, and what it reports. The runs themselves are no part of this suite.
"""

import json
from pathlib import Path

import pytest

from tests.support.other_clients.installation import InstallationError
from tests.versions import __main__ as program
from tests.versions import installation
from tests.versions.report import Finding, read, table

RESULTS = """<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite tests="3" time="61.7">
<testcase classname="tests.a" name="test_good" /><testcase classname="tests.b" name="test_fine"
/><testcase classname="tests.b" name="test_bad[x]"><failure message="no">no</failure></testcase>
</testsuite></testsuites>"""


def test_the_results_of_a_run_are_a_line_and_the_names_of_tests_that_did_not_pass(tmp_path: Path):
    results = tmp_path / "results.xml"
    results.write_text(RESULTS)

    found = read("Postgres 14", results)

    assert found == Finding("Postgres 14", 2, ["tests.b.test_bad[x]"], 61.7)
    assert not found.is_good
    assert table([found]).splitlines() == [
        "server      passed  others  seconds",
        "Postgres 14 2       1       62",
        "Postgres 14: tests.b.test_bad[x]",
    ]


def test_a_run_without_results_or_without_tests_is_not_good(tmp_path: Path):
    empty = tmp_path / "empty.xml"
    empty.write_text("<testsuites><testsuite time='0'></testsuite></testsuites>")

    assert read("Postgres 14", tmp_path / "none.xml").others == ["the tests did not start"]
    assert not read("Postgres 14", empty).is_good


def test_a_version_that_is_not_there_is_a_line_and_status_2(capsys):
    assert program.main(["9"]) == 2
    assert capsys.readouterr().err == "error: VERSIONS: must be some of 14, 16, 17, 18\n"


def test_libraries_are_linked_inside_of_their_package_only(tmp_path, monkeypatch):
    package = tmp_path / "node_modules" / "postgres-14"
    library = package / "native" / "lib" / "libpq.so.5.16"
    library.parent.mkdir(parents=True)
    library.touch()
    links = package / "native" / "pg-symlinks.json"
    link = {"source": "native/lib/libpq.so.5.16", "target": "native/lib/libpq.so.5"}
    links.write_text(json.dumps([link]))
    monkeypatch.setattr(installation, "install_node", lambda _: tmp_path)
    monkeypatch.setattr(installation, "versions", lambda: ["14"])
    monkeypatch.setattr(installation.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(installation.sys, "platform", "linux")

    assert installation.programs() == {"14": package / "native" / "bin"}
    assert (library.parent / "libpq.so.5").resolve() == library

    links.write_text(json.dumps([link | {"target": "../../elsewhere"}]))
    with pytest.raises(InstallationError, match="a file that is not its own"):
        installation.programs()
    monkeypatch.setattr(installation.platform, "machine", lambda: "aarch64")
    with pytest.raises(InstallationError, match="for linux on x86_64 only"):
        installation.programs()
