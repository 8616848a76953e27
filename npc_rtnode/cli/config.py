"""`config`: look at the settings."""

from __future__ import annotations

import typer

from npc_rtnode.cli.console import AsJson, Config, answer, out, settings_of
from npc_rtnode.cli.example import render_example
from npc_rtnode.settings import content_hash

app = typer.Typer(help="Settings.", no_args_is_help=True)


@app.command()
def check(config: Config = None, as_json: AsJson = False) -> None:
    """Read the settings and say whether they hold; all mistakes are told at once."""
    settings = settings_of(config)
    if as_json:
        answer({"ok": True, "content_hash": content_hash(settings), "settings": settings.model_dump(mode="json")})
        return
    out().print(f"settings are good; destinations: {', '.join(d.name for d in settings.destinations) or 'none'}")


@app.command()
def example() -> None:
    """Print a commented settings file to start from."""
    typer.echo(render_example(), nl=False)
