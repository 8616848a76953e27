"""`demo`: the main job with everything real but the patient: a PACS sends, the node works, a TPS and a PACS receive."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from npc_rtnode.cli.console import NOTICE, answer, err, out, table
from npc_rtnode.errors import NodeError

DEADLINE_S = 150
START_S = 120
"""A machine that is busy with other things may need so long to start a node."""
DICE_LEAST = 0.70
"""A GTV that overlaps the truth less than this fails the demo; the bundle's card has the whole distribution."""
DEMO_INDEX = 0
FINAL = {"DELIVERED", "HELD", "FAILED", "CANCELLED", "QUARANTINED"}
CONFIG = """\
[node]
home = "{home}"
site = "demo"

[listener]
port = 0
reserve_free_mb = 64
called = [{{ ae_title = "NPC_RTNODE", indication = "unknown" }}]
peers = [{{ ae_title = "DEMO_PACS", networks = ["127.0.0.1/32"] }}]

[assemble]
quiet_s = 2

[select]
study_quiet_s = 2

[log]
level = "{level}"

[[destinations]]
name = "tps"
ae_title = "DEMO_TPS"
host = "127.0.0.1"
port = {tps}
objects = ["RTSTRUCT"]

[[destinations]]
name = "pacs"
ae_title = "DEMO_ARCHIVE"
host = "127.0.0.1"
port = {pacs}
objects = ["SEG", "RTSTRUCT", "SR", "PREVIEW", "PDF"]
"""


class DemoFault(NodeError):
    """The demo did not come to its end."""

    code = "DEMO_FAULT"


@dataclass(frozen=True)
class Site:
    """The simulated hospital: the node's settings file, its listener's port, what TPS and PACS received."""

    config: Path
    port: int
    folder: Path

    def arrived(self, system: str) -> list[Path]:
        """Files that the simulated TPS or PACS holds."""
        return sorted((self.folder / system).glob("*.dcm"))


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the node running until Ctrl-C.")] = False,
    data: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Send this DICOM folder instead.")
    ] = None,
    phantom: Annotated[
        int, typer.Option(min=0, help="Which demo phantom; none of them was seen in training.")
    ] = DEMO_INDEX,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where page and objects are kept.")] = Path(
        "demo-result"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Run the whole chain on this machine; exit 0 only if what arrived was read back and agrees with the truth."""
    with tempfile.TemporaryDirectory(prefix="npc-rtnode-demo-") as folder, hospital(Path(folder)) as site:
        report = _with_data(site, data) if data else _with_phantom(site, phantom)
        report["kept"] = str(_keep(site, output))
        _tell(report, as_json)
        if keep:
            _wait(site)
    if not report["ok"]:
        raise typer.Exit(40)


@contextmanager
def hospital(folder: Path) -> Iterator[Site]:
    """A simulated TPS and PACS in this process, and a real node with its two processes."""
    from npc_rtnode.adapters.database import schema
    from npc_rtnode.adapters.dicom.simulator import StoringSCP
    from npc_rtnode.app import Home, Station
    from npc_rtnode.settings import load_settings

    tps, pacs = StoringSCP("DEMO_TPS", folder / "tps"), StoringSCP("DEMO_ARCHIVE", folder / "pacs")
    config = folder / "node.toml"
    level = os.environ.get("NPC_RTNODE_DEMO_LOG", "error")
    config.write_text(CONFIG.format(home=folder / "home", tps=tps.start(), pacs=pacs.start(), level=level), "utf-8")
    settings = load_settings(config)
    schema.upgrade(Station(settings).engine)
    node = subprocess.Popen(
        [sys.executable, "-m", "npc_rtnode", "serve", "--config", str(config)], stdin=subprocess.DEVNULL
    )
    try:
        yield Site(config, _port(Home(settings.node.home), node), folder)
    finally:
        _stop(node)
        tps.stop()
        pacs.stop()


def _port(home: Any, node: subprocess.Popen[bytes]) -> int:
    import json

    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if home.listener_file.exists():
            return int(json.loads(home.listener_file.read_text("ascii"))["port"])
        if node.poll() is not None:
            break
        time.sleep(0.1)
    raise DemoFault("the node did not start listening")


def _stop(node: subprocess.Popen[bytes]) -> None:
    node.send_signal(signal.SIGTERM)
    try:
        node.wait(60)
    except subprocess.TimeoutExpired:
        node.kill()
        node.wait()


def _with_phantom(site: Site, index: int) -> dict[str, Any]:
    from npc_rtnode.adapters.phantoms import write_study
    from npc_rtnode.cli.proof import compare

    study = write_study(site.folder / "sent", index)
    began = time.monotonic()
    _send(site, list(study.files))
    view = _until_final(site, expected_series=2)
    proof = compare(study, site.arrived("tps"), site.arrived("pacs"), DICE_LEAST)
    return _report(site, view, {**proof, "seconds": round(time.monotonic() - began, 1)}, list(study.wanted))


def _with_data(site: Site, data: Path) -> dict[str, Any]:
    from npc_rtnode.cli.rules import series_below

    series = series_below(data)
    if not series:
        raise DemoFault(f"no DICOM file below {data}")
    _send(site, [path for files in series.values() for path in files])
    view = _until_final(site, expected_series=len(series))
    return _report(site, view, {"ok": True, "checks": []}, [])


def _send(site: Site, files: list[Path]) -> None:
    from npc_rtnode.adapters.dicom.sender import send_files
    from npc_rtnode.settings import Destination

    node = Destination(name="node", ae_title="NPC_RTNODE", host="127.0.0.1", port=site.port)
    refused = [result for result in send_files(files, node, "DEMO_PACS") if not result.stored]
    if refused:
        raise DemoFault(
            f"{len(refused)} of {len(files)} instances were refused: "
            f"{refused[0].error or f'status 0x{refused[0].status or 0:04X}'}"
        )


def _until_final(site: Site, expected_series: int) -> dict[str, Any]:
    """Follow the ledger until nothing is under way any more."""
    from npc_rtnode.app import Station
    from npc_rtnode.settings import load_settings

    queries = Station(load_settings(site.config)).queries
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        studies = queries.studies()
        if studies and sum(study["series"] for study in studies) >= expected_series:
            views = [queries.study(study["study"]) for study in studies]
            if all(_is_final(view) for view in views):
                return {"studies": views, "history": queries.history(views[0]["study"])}
        time.sleep(0.2)
    raise DemoFault(f"not done after {DEADLINE_S} s")


def _is_final(view: dict[str, Any]) -> bool:
    return all(
        series["state"] not in {"RECEIVING", "COMPLETE"} and all(job["state"] in FINAL for job in series["jobs"])
        for series in view["series"]
    )


def _report(site: Site, view: dict[str, Any], proof: dict[str, Any], wanted: list[Path]) -> dict[str, Any]:
    from npc_rtnode.cli.proof import write_page

    if wanted:
        write_page(site.folder, view, site.arrived("tps"), wanted)
    return {**proof, **view, "notice": NOTICE}


def _keep(site: Site, output: Path) -> Path:
    """Copy what a person may want to look at; an earlier demo's copies are replaced."""
    for name in ("tps", "pacs"):
        shutil.rmtree(output / name, ignore_errors=True)
        shutil.copytree(site.folder / name, output / name)
    for page in site.folder.glob("study.*"):
        shutil.copy(page, output / page.name)
    return output


def _tell(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        answer(report)
        return
    rows = (
        (e["at"][11:23], e["subject"], e["event"], f"{e['from'] or '-'} -> {e['to'] or '-'}") for e in report["history"]
    )
    table("what happened", ("at (UTC)", "what", "event", "state"), rows)
    for view in report["studies"]:
        table(f"study {view['study']}", ("what", "state", "why"), _stands(view))
    if report["checks"]:
        table(
            "read back from what arrived", ("check", "found", "wanted", "holds"), (c.values() for c in report["checks"])
        )
    out().print(f"page, picture and objects: {report['kept']}", markup=False)
    out().print(NOTICE)
    (out() if report["ok"] else err()).print("the demo holds" if report["ok"] else "the demo FAILED")


def _stands(view: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for series in view["series"]:
        yield f"series {series['series']}", series["state"], "; ".join(series["reasons"])
        for job in series["jobs"]:
            yield f"job {job['job']}", job["state"], "; ".join([*job["reasons"], job["last_error"] or ""])


def _wait(site: Site) -> None:
    out().print(
        f"the node listens on 127.0.0.1:{site.port} as NPC_RTNODE for DEMO_PACS; settings {site.config}; Ctrl-C ends it"
    )
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        return
