"""The command rnn-export export."""

from __future__ import annotations

from pathlib import Path

import click

from . import _show, _target


@click.command()
@click.argument("target")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The folder to write the bundle to."
)
@_target.weights
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["onnx", "torchscript", "pt2"]),
    help="What to write; can be repeated. Default: onnx, and torchscript, which PyTorch has deprecated; pt2 is its "
    "successor.",
)
@click.option(
    "--lowering",
    type=click.Choice(["auto", "fused", "scan", "decomposed"]),
    help="How recurrent layers are written in ONNX. Default: auto.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "int8", "float16"]),
    help="int8: weights in 8 bits, where the results keep 30 dB; float16, for CUDA: layers in 16 bits, 50 dB. "
    "Default: fp32, the model's own dtypes.",
)
@click.option("--split-directions", is_flag=True, help="Write a bidirectional layer as two operators that run forward.")
@click.option(
    "--size",
    "sizes",
    multiple=True,
    metavar="AXIS=N",
    help="Fix an axis to a size, as in sequence=16; can be repeated.",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="AXIS=MIN..MAX",
    help="The sizes of an axis that the bundle is for, as in sequence=10..512; it refuses others. Can be repeated.",
)
@click.option(
    "--target",
    "runtime",
    type=click.Choice(["onnxruntime-1.15", "onnxruntime-web", "openvino", "tensorrt"]),
    help="The runtime that is to take the ONNX graph (docs/targets.md). Default: today's ONNX Runtime.",
)
@click.option("--opset", type=int, help="The ONNX opset. Default: 18.")
@click.option(
    "--tolerance",
    type=float,
    help="Largest absolute error, times the largest value above 1. Default: by dtype, 1e-5 for float32.",
)
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is already there.")
def export(
    target: str,
    output: Path,
    weights: Path | None,
    formats: tuple[str, ...],
    lowering: str | None,
    precision: str | None,
    split_directions: bool,
    sizes: tuple[str, ...],
    limits: tuple[str, ...],
    runtime: str | None,
    opset: int | None,
    tolerance: float | None,
    overwrite: bool,
) -> None:
    """Write a verified bundle of TARGET."""
    stated = list(map(_target.limit, limits))
    arguments = _target.limited(_target.arguments(target, weights), target, stated)
    from rnn_export import export as export_model

    given = {
        "lowering": lowering,
        "precision": precision,
        "split_directions": split_directions or None,
        "sizes": dict(map(_target.named_size, sizes)) or None,
        "target": runtime,
        "opset": opset,
        "tolerance": tolerance,
        "overwrite": overwrite or None,
        "formats": formats or None,
    }
    arguments |= {name: value for name, value in given.items() if value is not None}
    bundle = export_model(path=output, **arguments)
    layers = (
        ", ".join(f"{layer.operator}{f' {layer.name}' if layer.name else ''}" for layer in bundle.layers)
        or "no recurrent layer"
    )
    click.echo(f"{target}: {layers}\n")
    click.echo(str(bundle.report))
    if bundle.refused:
        refused = "; ".join(" ".join(f"{axis}={size}" for axis, size in item.items()) for item in bundle.refused)
        click.echo(f"\nnot compared, since eager PyTorch itself refuses: {refused}")
    if bundle.signature.limits:
        click.echo("")
        _show.limits(bundle.signature)
    if bundle.quantized:
        click.echo(f"\n{bundle.quantized}")
    click.echo(f"\nwrote {output}. Next: rnn-export run {output}")


export.help = f"{export.help}\n\n{_target.HELP}"
