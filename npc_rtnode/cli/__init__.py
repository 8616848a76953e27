"""The admin CLI: one file a noun. Nothing here imports torch, monai, rt_utils or pynetdicom at once."""

from __future__ import annotations

import typer

from npc_rtnode.cli import (
    backfill,
    bundle,
    config,
    database,
    demo,
    fsck,
    lanes,
    network,
    node,
    plan,
    qa,
    rules,
    status,
    studies,
    work,
)

app = typer.Typer(
    name="npc-rtnode",
    help="DICOM-RT pipeline node for nasopharyngeal carcinoma: MR in, verified RTSTRUCT and structured report out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("demo")(demo.demo)
app.command("serve")(node.serve)
app.command("doctor")(node.doctor)
app.command("status")(status.status)
app.command("fsck")(fsck.fsck)
app.command("version")(node.version)
app.command("run")(node.run)
app.command("plan")(plan.plan)
app.command("echo")(network.echo)
app.command("send")(network.send)
app.command("pull")(backfill.pull)
app.command("why")(studies.why)
app.command("reprocess")(work.reprocess)
app.command("retry")(work.retry)
app.command("resend")(work.resend)
app.command("hold")(work.hold)
app.command("release")(work.release)
app.command("abandon")(work.abandon)
app.command("cancel")(work.cancel)
app.command("pause")(lanes.pause)
app.command("resume")(lanes.resume)
app.command("purge")(work.purge)
app.add_typer(rules.app, name="rules")
app.add_typer(studies.app, name="studies")
app.add_typer(database.app, name="db")
app.add_typer(qa.app, name="qa")
app.add_typer(bundle.app, name="bundle")
app.add_typer(config.app, name="config")
