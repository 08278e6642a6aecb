"""
The files of `deploy/grafana`: dashboards that Grafana can load, and that show what exists.
"""

import json
from itertools import combinations
from typing import Any

import pytest
import yaml

from tests.support.pages import REPOSITORY
from tests.support.prometheus.programs import Programs
from tests.support.prometheus.series import known, problems

FOLDER = REPOSITORY / "deploy" / "grafana"
FILES = sorted((FOLDER / "dashboards").glob("*.json"))
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in FILES}
COLUMNS = 24
UNITS = {"short", "none", "s", "ops", "percentunit", "dateTimeFromNow"}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

each_dashboard = pytest.mark.parametrize("name", DASHBOARDS)


def panels(name: str) -> list[dict[str, Any]]:
    """The panels of the dashboard *name*, without the headings of rows."""
    return [panel for panel in DASHBOARDS[name]["panels"] if panel["type"] != "row"]


def expressions(name: str) -> list[str]:
    """The expressions of the dashboard *name*, as Grafana sends them."""
    dashboard = DASHBOARDS[name]
    sent = [target["expr"] for panel in panels(name) for target in panel["targets"]]
    sent += [each["expr"] for each in dashboard["annotations"]["list"]]
    return [text.replace("$__rate_interval", "1m") for text in sent]


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


def test_each_dashboard_has_an_id_and_a_title_of_its_own():
    assert set(DASHBOARDS) == {"overview", "relay", "consumer", "failures"}
    for key in ("uid", "title"):
        assert len({dashboard[key] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)


@each_dashboard
def test_the_panels_of_a_dashboard_do_not_overlap(name):
    everything = DASHBOARDS[name]["panels"]

    assert len({panel["id"] for panel in everything}) == len(everything)
    for panel in everything:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= COLUMNS
    for one, other in combinations(everything, 2):
        assert not overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])


@each_dashboard
def test_a_panel_has_a_title_a_meaning_a_unit_and_the_chosen_data_source(name):
    titles = [panel["title"] for panel in panels(name)]

    assert len(set(titles)) == len(titles)
    for panel in panels(name):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert panel["datasource"] == DATASOURCE
        assert {target["refId"] for target in panel["targets"]} == set(
            "ABCDEFGH"[: len(panel["targets"])]
        )
        assert all(target["datasource"] == DATASOURCE for target in panel["targets"])


@each_dashboard
def test_a_dashboard_has_the_variables_that_it_uses(name):
    variables = DASHBOARDS[name]["templating"]["list"]
    used = {
        word
        for word in ("datasource", "exchange", "queue", "type")
        if f"${word}" in json.dumps(panels(name)) or f"${{{word}}}" in json.dumps(panels(name))
    }

    assert variables[0]["type"] == "datasource"
    assert variables[0]["query"] == "prometheus"
    assert {variable["name"] for variable in variables} == used
    for variable in variables[1:]:
        metric, label = variable["definition"].removeprefix("label_values(")[:-1].split(", ")
        assert label in known()[metric]


@each_dashboard
def test_a_dashboard_asks_for_metrics_and_labels_that_exist(name):
    series = known()

    found = {text: problems(text, series) for text in expressions(name)}

    assert {text: wrong for text, wrong in found.items() if wrong} == {}


@each_dashboard
def test_a_legend_names_labels_that_its_expression_keeps(name):
    for panel in panels(name):
        for target in panel["targets"]:
            for part in target["legendFormat"].split("{{")[1:]:
                assert part.partition("}}")[0] in target["expr"], panel["title"]


def test_prometheus_can_parse_every_expression(prometheus_programs: Programs, tmp_path):
    rules = [
        {"record": f"dashboard:{name}:{number}", "expr": text}
        for name in DASHBOARDS
        for number, text in enumerate(expressions(name))
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))

    prometheus_programs.check("check", "rules", "--lint=none", file)
    assert len(rules) > 60


def test_the_provisioning_names_a_prometheus_and_the_folder_of_the_dashboards():
    provisioning = FOLDER / "provisioning"
    sources = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())
    providers = yaml.safe_load((provisioning / "dashboards" / "outbox-relay.yml").read_text())

    assert [each["type"] for each in sources["datasources"]] == ["prometheus"]
    assert [each["options"]["path"] for each in providers["providers"]] == [
        "/var/lib/grafana/dashboards/outbox-relay"
    ]
