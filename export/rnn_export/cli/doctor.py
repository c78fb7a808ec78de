"""The command rnn-export doctor."""

from __future__ import annotations

import click


@click.command()
def doctor() -> None:
    """Tell what works on this machine, and why the rest does not."""
    import importlib.util

    from rnn_runtime import DependencyError
    from rnn_runtime._device import cuda_problem, providers

    from .._versions import notes, problems, versions

    installed = versions()
    click.echo("versions")
    for name, version in installed.items():
        click.echo(f"  {name} {version}")
    missing = [name for name in ("torch", "onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    click.echo("export")
    click.echo(f'  no: {", ".join(missing)} missing: pip install "rnn-export[cpu,export]"' if missing else "  yes")
    click.echo("run on the CPU")
    bad = problems(installed)
    try:
        have = providers()
        click.echo(f"  yes (providers: {', '.join(have)})")
        problem = cuda_problem()
    except DependencyError as error:
        click.echo(f"  no: {error}")
        problem = str(error)
        bad.append(str(error))
    click.echo("run on CUDA")
    click.echo(f"  no: {problem}" if problem else "  yes")
    for note in notes(installed):
        click.echo(f"note: {note}")
    if bad:
        raise DependencyError("; ".join(bad))
    click.echo("no version here is known to be bad")
