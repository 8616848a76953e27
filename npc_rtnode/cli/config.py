"""`config`: look at the settings."""

from __future__ import annotations

import typer

from npc_rtnode.cli.console import AsJson, Config, answer, out, settings_of
from npc_rtnode.cli.example import render_example
from npc_rtnode.settings import content_hash

app = typer.Typer(help="Settings.", no_args_is_help=True)


@app.command()
def check(config: Config = None, as_json: AsJson = False) -> None:
    """Read the settings, the rule set and the bundle's manifest, and say whether they hold; nothing is started."""
    from npc_rtnode.adapters.predictor import BundlePredictor
    from npc_rtnode.adapters.rules import load_rule_file

    settings = settings_of(config)
    rules, bundle = load_rule_file(settings.select.rules), BundlePredictor(settings.infer).statement()
    if as_json:
        answer(
            {
                "ok": True,
                "content_hash": content_hash(settings),
                "rules": {"name": rules.name, "hash": rules.hash},
                "bundle": {key: getattr(bundle, key) for key in ("name", "version", "data", "sha256")},
                "settings": settings.model_dump(mode="json", exclude={"database"}),
            }
        )
        return
    said = [
        f"settings are good; destinations: {', '.join(d.name for d in settings.destinations) or 'none'}",
        f"rule set {rules.name}, hash {rules.hash}",
        f"bundle {bundle.name} {bundle.version}, data: {bundle.data}, sha256 {bundle.sha256}",
    ]
    out().print("\n".join(said), markup=False)


@app.command()
def example() -> None:
    """Print a commented settings file to start from."""
    typer.echo(render_example(), nl=False)
