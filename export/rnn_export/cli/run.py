"""The command rnn-export run."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rnn_runtime import Result


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "-i",
    "--input",
    "source",
    type=click.Path(path_type=Path),
    help="A .npy file, or an .npz with an array for each input; without it the recorded example is run.",
)
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path),
    help="Write the first output to a .npy file, or all of them to an .npz.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
def run(bundle: Path, source: Path | None, target: Path | None, device: str) -> None:
    """Run BUNDLE, a folder or a bare .onnx file, on arrays, and print or write what comes out."""
    import rnn_runtime

    if target is not None and target.suffix not in (".npy", ".npz"):
        raise click.UsageError(f"--output {target} is neither .npy nor .npz")
    model = rnn_runtime.load(bundle, device=device)
    if source is None and model.path.suffix == ".onnx":
        raise click.UsageError(f"{bundle} is a bare file and holds no example: give --input")
    result = model.run(_read(source) if source is not None else model.example())
    if target is None:
        _print(result)
    else:
        _write(result, target)
        click.echo(f"wrote {target}: {result!r}")


def _read(source: Path) -> Any:
    import numpy as np

    from rnn_runtime import InputError

    try:
        loaded = np.load(source, allow_pickle=False)
        return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else loaded
    except OSError as error:
        reason = error.strerror or "no file of NumPy's"
    except Exception:  # NumPy's own text advises to load it as code
        reason = "no file of plain arrays"
    raise InputError(f"{source} cannot be read: {reason}. A .npy or .npz file written by NumPy is expected")


def _print(result: Result) -> None:
    import numpy as np

    for name, array in result.items():
        click.echo(f"{name}: {array.dtype}{list(array.shape)}")
        click.echo(np.array2string(array, precision=4, suppress_small=True, floatmode="fixed", threshold=200))


def _write(result: Result, target: Path) -> None:
    import numpy as np

    from rnn_runtime import InputError

    partial = target.with_name(f".{target.stem}.partial{target.suffix}")
    try:
        if target.suffix == ".npy":
            np.save(partial, result[0])
        else:  # numpy.savez takes no array of the name "file"
            with zipfile.ZipFile(partial, "w") as archive:
                for name, array in result.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
        partial.replace(target)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
