"""A report and the progress towards it, in a terminal and in a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rnn_runtime import Report, Signature
    from rnn_runtime._verify import Progress


def show(report: Report) -> None:
    """Print a report: with colours and folded columns in a terminal that has rich, as plain text elsewhere."""
    if not sys.stdout.isatty():
        click.echo(str(report))
        return
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        click.echo(str(report))
        return
    console = Console(highlight=False)
    for part in report.parts():
        if isinstance(part, str):
            console.print(Text(part, overflow="fold"))
        else:
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
            for name in part[0]:
                table.add_column(name, overflow="fold")
            for row in part[1:]:
                table.add_row(*(Text(cell, style=_style(cell)) for cell in row))
            console.print(table)


def limits(signature: Signature) -> None:
    """Print the limits of a model's axes and where they come from, if it has some."""
    if signature.limits:
        click.echo("limits")
    for limit in signature.limits:
        click.echo(f"  {limit.axis}: {limit.sizes}, {limit.reason or 'as declared'}")


def _style(cell: str) -> str:
    return "green" if cell == "passed" else "bold red" if cell.startswith("FAILED") else ""


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """What tells of progress: a bar on stderr where that is a terminal; else only that it will take long, once."""
    if sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
            with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
                task = bar.add_task("", total=None)

                def update(what: str, done: int, total: int) -> None:
                    bar.update(task, description=what, completed=done, total=total)

                yield update
                return
    told = False

    def say(what: str, done: int, total: int) -> None:
        nonlocal told
        if not told and what.startswith("about "):
            told = True
            click.echo(f"this takes {what}", err=True)

    yield say
