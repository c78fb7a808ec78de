"""The command rnn-export inspect."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import _show

if TYPE_CHECKING:
    from rnn_runtime import Signature
    from rnn_runtime._bundle import Bundle


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
@click.option("--assumptions", is_flag=True, help="List everything that the export took for granted.")
def inspect(bundle: Path, as_json: bool, assumptions: bool) -> None:
    """Show what BUNDLE, a folder or a bare .onnx file, holds.

    Of a folder every file's hash is checked.
    """
    from rnn_runtime import BundleError, load
    from rnn_runtime._bundle import Bundle

    if bundle.is_file():
        _signature(load(bundle).signature)
        return
    opened = Bundle.open(bundle)
    opened.verify_files()
    manifest = opened.manifest
    if as_json:
        click.echo(json.dumps(manifest, indent=2))
        return
    _signature(opened.signature, manifest.get("holds", {}))
    try:
        _contents(opened)
        _assumptions(manifest.get("assumptions", []), everything=assumptions)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BundleError(
            f"the manifest of {bundle} is damaged ({type(error).__name__}: {error}): export the model again"
        ) from None


def _signature(signature: Signature, holds: Mapping[str, str] | None = None) -> None:
    states = {state.input: state.output for state in signature.states}
    ids = {spec.input: spec.size for spec in signature.ids}
    click.echo("inputs")
    for spec in signature.inputs:
        kind = f"  state, next in {states[spec.name]}" if spec.name in states else ""
        if holds and spec.name in holds:
            kind += f": {holds[spec.name]}"
        if signature.lengths is not None and spec.name == signature.lengths.input:
            kind = f"  lengths along {signature.lengths.axis}"
        if spec.name in ids:
            kind += f"  ids 0 to {ids[spec.name] - 1}"
        click.echo(f"  {spec}{kind}")
    click.echo("outputs")
    for spec in signature.outputs:
        click.echo(f"  {spec}")
    _show.limits(signature)


def _contents(opened: Bundle) -> None:
    manifest = opened.manifest
    click.echo("recurrent layers" if manifest["layers"] else "no recurrent layers")
    for layer in manifest["layers"]:
        words = [layer["operator"], f"hidden_size {layer['hidden_size']}"]
        words += [f"{layer['num_layers']} layers"] if layer["num_layers"] > 1 else []
        words += [word for word in ("bidirectional", "packed") if layer[word]]
        click.echo(f"  {layer['name'] or '(the model itself)'}: {', '.join(words)}")
    if manifest["operators"]:
        click.echo("operators in the graph")
        click.echo("  " + ", ".join(f"{name} {count}" for name, count in manifest["operators"].items()))
    if opened.step is not None:
        click.echo(f"  with a graph of its own for one step of {opened.step}")
    if "quantized" in manifest:
        quantized = manifest["quantized"]
        noise = "no noise" if quantized["snr"] is None else f"signal to noise {quantized['snr']:.1f} dB"
        click.echo(f"precision {manifest['precision']}, {noise}")
        click.echo(f"  {', '.join(quantized['layers'])}")
        if quantized["kept"]:
            click.echo(f"  left in float32, since it hurts: {', '.join(quantized['kept'])}")
        if quantized.get("others"):
            click.echo(f"  left in float32, of which there is no such form: {', '.join(quantized['others'])}")
    if "tuned" in manifest:
        tuned = manifest["tuned"]
        sizes = " ".join(f"{axis}={size}" for axis, size in tuned["sizes"].items())
        click.echo(
            f"  tuned at {sizes}, threads {tuned['threads']}, on {tuned['about']['hardware']}: {tuned['lowering']}"
        )
    click.echo("files")
    for name, file in opened.files.items():
        click.echo(f"  {name}: {file.size:,} bytes, sha256 {file.sha256[:16]}...")
    click.echo("verified")
    for backend, error in manifest["verified"]["largest_error"].items():
        click.echo(f"  {backend}: largest error {error:.2g} over {len(manifest['verified']['shapes'])} shapes")
    click.echo("made with")
    click.echo("  " + ", ".join(f"{name} {version}" for name, version in manifest["versions"].items()))


def _assumptions(found: list[dict[str, Any]], *, everything: bool) -> None:
    counts = Counter(one["settled"] for one in found)
    click.echo("assumptions")
    click.echo("  " + (", ".join(f"{count} {settled}" for settled, count in counts.items()) or "none"))
    own = [one for one in found if one["settled"] == "limited" or (one["own"] and one["settled"] == "tried")]
    for one in found if everything else own[:MOST]:
        click.echo(f"  {one['settled']}: {one['text']}" + (f" ({one['how']})" if one["how"] else ""))
        if one["place"]:
            click.echo(f"    {one['place']}")
    if not everything and len(own) > MOST:
        click.echo(f"  and {len(own) - MOST} more: --assumptions lists them all")


MOST = 8
"""How many assumptions are shown unless all are asked for."""
