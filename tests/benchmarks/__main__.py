"""
The command line of the benchmarks: `python -m tests.benchmarks`, or `make bench`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from rich.console import Console

from tests.benchmarks import (
    consumption,
    dedup,
    embedded,
    encryption,
    end_to_end,
    flatness,
    keys,
    latency,
    overhead,
    results,
    throughput,
    wal,
)
from tests.benchmarks.conditions import conditions
from tests.benchmarks.environment import Environment, provision
from tests.benchmarks.plan import Plan
from tests.benchmarks.results import Result

Group: TypeAlias = Callable[[Environment, Plan], Awaitable[list[Result]]]

GROUPS: dict[str, Group] = {
    "throughput": throughput.measure,
    "larger": throughput.larger,
    "latency": latency.measure,
    "idle": overhead.idle,
    "notify": overhead.notify,
    "keys": keys.measure,
    "pinned": flatness.pinned,
    "backlog": flatness.backlog,
    "consumer": consumption.measure,
    "end_to_end": end_to_end.measure,
    "under_load": end_to_end.under_load,
    "embedded": embedded.measure,
    "wal": wal.measure,
    "dedup": dedup.measure,
    "encryption": encryption.measure,
}
RESULTS = Path(__file__).parent / "results"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()


@app.command()
def main(
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"Of these groups only, any number of times: {', '.join(GROUPS)}."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each has its turn.")] = 3,
    scale: Annotated[
        float, typer.Option(min=0.001, max=1, help="What part of the full counts and times.")
    ] = 1.0,
    peers: Annotated[
        bool, typer.Option(help="Measure relays of others; PyPI has them, .venv/peers keeps them.")
    ] = True,
    directory: Annotated[
        Path, typer.Option(help="Where latest.json and latest.md are written.")
    ] = RESULTS,
) -> None:
    """
    Measure relay and consumer beside others, on servers of their own.

    The exit status is 0 even if goals are missed; the table names those.
    """
    chosen = only or list(GROUPS)
    if unknown := set(chosen) - set(GROUPS):
        raise typer.BadParameter(f"there is no group {min(unknown)}", param_hint="--only")
    asyncio.run(_run(chosen, Plan(rounds, scale, _say), directory, with_peers=peers))


async def _run(chosen: Sequence[str], plan: Plan, directory: Path, *, with_peers: bool) -> None:
    began = time.monotonic()
    found: list[Result] = []
    _say("installing the relays of others, and starting the servers")
    async with provision(with_peers=with_peers) as environment:
        circumstances = dict(await conditions(environment, plan, chosen))
        for name in chosen:
            _say(f"{name} ({time.monotonic() - began:.0f} s since the start)")
            found += await GROUPS[name](environment, plan)
            circumstances["took"] = f"{time.monotonic() - began:.0f} s"
            # After each group, so that one that fails does not take the others with it.
            _write(found, circumstances, directory)
    console.print(results.as_table(found))
    for name, value in circumstances.items():
        console.print(f"{name}: {value}", highlight=False, style="dim")


def _write(found: Sequence[Result], circumstances: results.Conditions, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "latest.json").write_text(results.as_json(found, circumstances))
    (directory / "latest.md").write_text(results.as_markdown(found, circumstances))


def _say(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    app(prog_name="benchmarks")
