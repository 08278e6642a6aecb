"""
The reasons of dead letters that a plan allows.
"""

from datetime import timedelta

import pytest

from tests.reliability.simulation.plan import RETENTION_HOURS, UNSUPPORTED_WAIT, Plan

RETENTION = timedelta(hours=RETENTION_HOURS)
SOON = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("plan", "disturbances", "lasted", "reasons"),
    [
        (Plan(), 19, SOON, set()),
        (Plan(), 20, SOON, {"delivery_limit"}),
        (Plan(delivery_limit=2), 2, SOON, {"delivery_limit"}),
        (Plan(expires=True), 0, SOON, {"expired"}),
        (Plan(dead_letters=True), 0, SOON, {"unroutable", "refused"}),
        (Plan(rolling=True), 0, SOON, set()),
        (Plan(rolling=True), 0, UNSUPPORTED_WAIT, {"no_handler"}),
        (Plan(), 0, RETENTION, {"too_old_to_dedupe"}),
    ],
)
def test_every_dead_letter_has_a_reason_that_the_plan_or_its_faults_allow(
    plan, disturbances, lasted, reasons
):
    assert plan.reasons(disturbances=disturbances, lasted=lasted) == reasons
