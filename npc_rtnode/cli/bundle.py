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
    """Check every file's hash and run the golden case; exit 2 when this machine says something else."""
    from npc_rtnode.adapters.bundles import verify_bundle

    agrees, message = verify_bundle(folder or settings_of(config).infer.bundle)
    if as_json:
        answer({"agrees": agrees, "message": message})
    else:
        out().print(message, markup=False)
    if not agrees:
        raise BundleFault(message)
