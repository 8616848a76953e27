"""`send` on the wire: images go anywhere, results of this node to a configured test system alone (ADR 0006)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import dcmread

from npc_rtnode.adapters.dicom.rtstruct import write_rtstruct
from npc_rtnode.adapters.dicom.simulator import StoringSCP
from npc_rtnode.adapters.dicom.sr import write_sr
from npc_rtnode.cli.network import send
from npc_rtnode.errors import Forbidden, Unreadable
from tests.builders.mr_series import make_series
from tests.builders.outputs import ball, plan_of, prediction_of, stack_for


@dataclass(frozen=True)
class Site:
    """A peer, settings that name it as `tps` and as the test system `lab`, images and results of them."""

    peer: StoringSCP
    address: str
    config: Path
    images: list[Path]
    results: list[Path]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    """A series, and the two objects of one result on it, as files that somebody copied."""
    folder = tmp_path_factory.mktemp("files")
    images, stack = make_series(folder / "mr"), stack_for()
    mask = ball(stack.grid.shape)
    rtstruct = write_rtstruct(stack, images, mask, prediction_of(mask), plan_of())
    sr = write_sr(stack, images, mask, prediction_of(mask), plan_of(), rtstruct)
    results = [folder / "rtstruct.dcm", folder / "sr.dcm"]
    for path, item in zip(results, (rtstruct, sr), strict=True):
        path.write_bytes(item.encoded)
    return images, results


@pytest.fixture
def site(tmp_path: Path, files: tuple[list[Path], list[Path]]) -> Iterator[Site]:
    """Everything running."""
    peer = StoringSCP("PEER", tmp_path / "stored")
    port = peer.start()
    config = tmp_path / "node.toml"
    here = f'ae_title = "PEER"\nhost = "127.0.0.1"\nport = {port}\n'
    config.write_text(
        f'[[destinations]]\nname = "tps"\n{here}[[destinations]]\nname = "lab"\ntest = true\n{here}', "utf-8"
    )
    try:
        yield Site(peer, f"PEER@127.0.0.1:{port}", config, *files)
    finally:
        peer.stop()


@pytest.mark.parametrize("kind", [0, 1], ids=["RTSTRUCT", "SR"])
@pytest.mark.parametrize("peer", ["tps", "address"])
def test_a_result_goes_by_send_to_no_system_of_patients(site: Site, peer: str, kind: int) -> None:
    """Neither by name nor by address, though the address is a test system's: Forbidden, and nothing has arrived."""
    with pytest.raises(Forbidden, match="npc-rtnode resend"):
        send(site.address if peer == "address" else peer, [site.results[kind]], config=site.config)
    assert not site.peer.received


def test_one_result_among_images_stops_them_all(site: Site) -> None:
    """A folder that holds a result is refused whole, before the first image leaves, and in a rehearsal too."""
    folder = site.results[0].parent
    for dry_run in (False, True):
        with pytest.raises(Forbidden, match=f"2 of {len(site.images) + 2} files"):
            send("tps", [folder], config=site.config, dry_run=dry_run)
    assert not site.peer.received


def test_a_result_goes_to_a_configured_test_system(site: Site) -> None:
    """By the name of a destination with test = true both objects arrive."""
    send("lab", site.results, config=site.config)
    assert [item.sop_uid for item in site.peer.received] == [dcmread(path).SOPInstanceUID for path in site.results]


def test_a_test_system_under_another_title_is_not_the_configured_one(site: Site) -> None:
    """--called-aet makes another destination of it, of which nobody said that it is a test system."""
    with pytest.raises(Forbidden):
        send("lab", site.results, aec="TPS", config=site.config)
    assert not site.peer.received


def test_images_go_anywhere(site: Site) -> None:
    """What this node has not made is sent as before, to a name or to an address."""
    send("tps", site.images[:1], config=site.config)
    send(site.address, site.images[1:2], config=site.config)
    assert len(site.peer.received) == 2


def test_what_is_no_dicom_file_stops_the_sending(site: Site, tmp_path: Path) -> None:
    """It cannot be told whose it is; nothing is sent."""
    letter = tmp_path / "letter.txt"
    letter.write_text("no DICOM")
    with pytest.raises(Unreadable):
        send("tps", [*site.images[:1], letter], config=site.config)
    assert not site.peer.received
