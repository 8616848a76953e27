"""`bundle`: what the model says of itself, and whether this machine still agrees with the laboratory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from npc_rtnode.cli.console import AsJson, Config, answer, out, settings_of
from npc_rtnode.errors import BundleFault

app = typer.Typer(help="The model bundle.", no_args_is_help=True)
Folder = Annotated[Path | None, typer.Argument(help="A bundle folder; without it the one in force.")]


@app.command()
def show(folder: Folder = None, config: Config = None, as_json: AsJson = False) -> None:
    """Name, version, hash, what it was trained on, how it was measured, within which input limits."""
    from npc_rtnode.adapters.bundles import describe_bundle

    document = describe_bundle(folder or settings_of(config).infer.bundle)
    if as_json:
        answer(document)
    else:
        out().print("\n".join(f"{key}: {value}" for key, value in document.items()), markup=False)


@app.command()
def verify(folder: Folder = None, config: Config = None, as_json: AsJson = False) -> None:
    """Check every file's hash and run the golden case on the device in force; exit 2 when it says something else."""
    from npc_rtnode.adapters.predictor import BundlePredictor

    infer = settings_of(config).infer
    predictor = BundlePredictor(infer.model_copy(update={"bundle": folder}) if folder else infer)
    try:
        message = predictor.prove()
    except BundleFault as fault:
        if as_json:
            answer({"agrees": False, "message": fault.detail})
        raise
    finally:
        predictor.close()
    if as_json:
        answer({"agrees": True, "message": message})
    else:
        out().print(message, markup=False)
