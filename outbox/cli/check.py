"""
The results of `check`, for people and for programs.
"""

import sys

from outbox.checks.report import Report
from outbox.checks.result import Check, CheckResult, Status
from outbox.cli.console import print_json
from outbox.cli.start import exit_code_of, setting_warnings
from outbox.settings import SharedSettings


def add_settings(report: Report, settings: SharedSettings) -> None:
    """Add a result for each ignored variable and each server that is a default to *report*."""
    warnings = setting_warnings(settings)
    report.warn(Check.SETTINGS, warnings)
    if not warnings:
        report.add(CheckResult.ok(Check.SETTINGS, "every variable with the prefix MQ_ is valid"))


def show(report: Report, *, as_json: bool) -> None:
    """Print the results; the process ends with the exit code of the first error."""
    if as_json:
        print_json(report.results)
    else:
        _print(report)
    if report.failure is not None:
        raise SystemExit(exit_code_of(report.failure))


def _print(report: Report) -> None:
    """Print a line for each result: problems to standard error, as other commands do, and last."""
    for status in (Status.OK, Status.NOT_CHECKED, Status.WARNING, Status.ERROR):
        stream = sys.stderr if status in {Status.WARNING, Status.ERROR} else sys.stdout
        for result in report.results:
            if result.status is status:
                print(f"{status.replace('_', ' ')}: {result.text}", file=stream)
    if report.failure is None:
        print("settings, schema and topology are good")  # noqa: T201
