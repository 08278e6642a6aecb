"""
`python -m tests.reliability.mutation`: tries every mutant; each has to be caught.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from tests.reliability.mutation.mutants import MUTANTS, Check, Mutant, Schedules, Suite
from tests.reliability.mutation.runner import Verdict, attempt, plant

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    only: Annotated[list[str] | None, typer.Option(help="The mutants of these names.")] = None,
) -> None:
    """
    Try each mutant; exit status 1 if one is not caught, or if the unchanged product fails a check.
    """
    chosen = [mutant for mutant in MUTANTS if not only or mutant.name in only]
    is_sound = True
    for check in without_faults(chosen):
        verdict = _tried(None, check)
        print(_line("the product as it is", verdict), flush=True)
        is_sound = is_sound and verdict.caught_by is None
    verdicts: dict[Mutant, Verdict] = {}
    for mutant in chosen:
        verdicts[mutant] = _tried(mutant, mutant.check)
        print(_line(mutant.name, verdicts[mutant]), flush=True)
    print("\n" + table(verdicts))
    raise typer.Exit(code=0 if is_sound and all(v.caught_by for v in verdicts.values()) else 1)


def without_faults(mutants: Sequence[Mutant]) -> list[Check]:
    """The checks that the unchanged product has to pass: schedules, and all tests of *mutants*."""
    suites = [mutant.check for mutant in mutants if isinstance(mutant.check, Suite)]
    return [Schedules(), *dict.fromkeys(suites)]


def table(verdicts: Mapping[Mutant, Verdict]) -> str:
    """The *verdicts* on mutants, in Markdown."""
    rows = [
        f"| `{mutant.name}` | {mutant.says} | {verdict.caught_by or '**nothing**'} |"
        for mutant, verdict in verdicts.items()
    ]
    return "\n".join(["| mutant | what is wrong | caught by |", "|---|---|---|", *rows, ""])


def _tried(mutant: Mutant | None, check: Check) -> Verdict:
    with TemporaryDirectory(prefix="mutant-") as directory:
        plant(mutant, Path(directory))
        return attempt(check, Path(directory))


def _line(name: str, verdict: Verdict) -> str:
    return f"{name}: {verdict.caught_by or 'nothing found'} ({verdict.seconds:.0f} s)"
