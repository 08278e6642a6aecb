"""
The files of `deploy/prometheus`: rules that can be loaded, that fire, and that lead to a page.
"""

import re
from collections import Counter

import pytest
import yaml

from tests.reference.alerts import anchors
from tests.support.pages import REPOSITORY
from tests.support.prometheus.expressions import uses
from tests.support.prometheus.programs import Programs
from tests.support.prometheus.series import known, problems, rules

FOLDER = REPOSITORY / "deploy" / "prometheus"
ALERTS = [rule for rule in rules() if "alert" in rule]
SEVERITIES = {"critical", "warning", "none"}


def test_promtool_accepts_the_rules_and_the_configuration(prometheus_programs: Programs):
    prometheus_programs.check("check", "rules", "--lint-fatal", FOLDER / "rules.yml")
    prometheus_programs.check("check", "config", "--lint-fatal", FOLDER / "prometheus.yml")


def test_every_alert_passes_its_unit_test(prometheus_programs: Programs):
    prometheus_programs.check("test", "rules", FOLDER / "rules_test.yml")


def test_every_alert_is_tested_with_and_without_its_cause():
    tested: dict[str, set[bool]] = {}
    for test in yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]:
        for case in test["alert_rule_test"]:
            tested.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))

    always_fires = {"OutboxWatchdog"}
    assert tested == {
        rule["alert"]: {True} if rule["alert"] in always_fires else {True, False}
        for rule in ALERTS
    }


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_asks_for_metrics_and_labels_that_exist(rule):
    assert problems(rule["expr"], known()) == []


def test_a_metric_or_label_that_does_not_exist_is_found():
    expression = (
        'sum by (queue, colour) (rate(mq_messages_processed_total{shape="a"}[5m])) > mq_nothing'
    )

    assert problems(expression, known()) == [
        "no metric mq_nothing",
        "no label shape of mq_messages_processed_total",
        "no label colour",
    ]
    assert uses('absent(up{job="a b"} offset 5m == 1)').selected == {"up": {"job"}}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_has_happened_and_leads_to_a_section(rule):
    annotations = rule["annotations"]
    page, _, anchor = annotations["runbook_url"].partition("#")

    assert rule["labels"]["severity"] in SEVERITIES
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert annotations["summary"].endswith(".")
    assert annotations["description"].endswith(".")
    assert anchor in anchors((REPOSITORY / page).read_text())


def test_an_alert_has_one_name():
    assert [name for name, n in Counter(rule["alert"] for rule in ALERTS).items() if n > 1] == []


def test_the_scraped_jobs_are_those_that_the_rules_name():
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    jobs = {each["job_name"] for each in config["scrape_configs"]}
    named = {
        job
        for rule in rules()
        for _, text in re.findall(r'job(=~?)"([^"]*)"', rule["expr"])
        for job in text.split("|")
    }

    assert named == jobs
