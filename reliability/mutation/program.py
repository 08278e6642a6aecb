"""
The command `python -m reliability.mutation`: every mutant is tried, and none may get through.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from reliability.mutation.mutants import MUTANTS, Mutant, Schedules
from reliability.mutation.trial import Verdict, attempt, plant

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    only: Annotated[list[str] | None, typer.Option(help="The mutants of these names.")] = None,
) -> None:
    """Try each mutant; exit status 1 if one gets through, or if the product itself is caught."""
    chosen = [mutant for mutant in MUTANTS if not only or mutant.name in only]
    verdicts: dict[Mutant | None, Verdict] = {}
    for mutant in (None, *chosen):
        verdicts[mutant] = _tried(mutant)
        print(_line(mutant, verdicts[mutant]), flush=True)
    print("\n" + table(verdicts))
    sound = verdicts.pop(None).caught_by is None
    raise typer.Exit(code=0 if sound and all(v.caught_by for v in verdicts.values()) else 1)


def table(verdicts: dict[Mutant | None, Verdict]) -> str:
    """The *verdicts* on mutants, and on the product as it is, in Markdown."""
    rows = [
        f"| `{mutant.name}` | {mutant.says} | {verdict.caught_by or '**nothing**'} |"
        for mutant, verdict in verdicts.items()
        if mutant is not None
    ]
    return "\n".join(["| mutant | what is wrong | caught by |", "|---|---|---|", *rows, ""])


def _tried(mutant: Mutant | None) -> Verdict:
    with TemporaryDirectory(prefix="mutant-") as directory:
        plant(mutant, Path(directory))
        return attempt(mutant.trial if mutant else Schedules(), Path(directory))


def _line(mutant: Mutant | None, verdict: Verdict) -> str:
    name = mutant.name if mutant else "the product as it is"
    return f"{name}: {verdict.caught_by or 'nothing found'} ({verdict.seconds:.0f} s)"
