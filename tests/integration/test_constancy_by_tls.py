"""The constancy phantom on a node that listens by TLS alone: it calls itself, and nobody else may."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.dicom.sender import send_files
from npc_rtnode.adapters.dicom.tls import names_of_ours
from npc_rtnode.app import ReceiveRole, Station, _send_to_ourselves
from npc_rtnode.cli.checks import examine
from npc_rtnode.errors import AssociationRejected, TlsFailed
from npc_rtnode.settings import Destination, Settings, TlsSettings
from tests.builders.certificates import Authority
from tests.builders.mr_series import make_series
from tests.builders.workers import wait_for


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The hospital's own."""
    return Authority(tmp_path / "pki")


def settings_of(tmp_path: Path, tls: TlsSettings) -> Settings:
    """A node with constancy and no port without TLS."""
    listener = {"port": 0, "reserve_free_mb": 1}
    return Settings.model_validate(
        {"node": {"home": tmp_path / "home"}, "listener": listener, "tls": tls, "qa": {"enabled": True, "at": ""}}
    )


@pytest.fixture
def station(tmp_path: Path, authority: Authority) -> Iterator[Station]:
    """Its receiver is up."""
    with closing(Station(settings_of(tmp_path, authority.settings(authority.sign("node"))))) as made:
        schema.upgrade(made.engine)
        role = ReceiveRole(made.settings)
        role.start()
        yield made
        role.stop()


def ours(station: Station, **wishes: Any) -> Destination:
    """The node as a destination of its own."""
    (port,) = json.loads(station.home.listener_file.read_text())["ports"]
    view = {"name": "node", "ae_title": "NPC_QA", "host": "127.0.0.1", "port": port, "calling_ae": "NPC_QA", **wishes}
    return Destination.model_validate(view)


def test_the_phantom_comes_by_tls(station: Station, tmp_path: Path) -> None:
    """Over the wire, on the one port that there is: every instance is in the ledger."""
    files = make_series(tmp_path / "series")
    _send_to_ourselves(station, files)
    wait_for(lambda: station.queries.counts()["instances"] == len(files), 20)


def test_nobody_else_may_use_its_title(station: Station, authority: Authority, tmp_path: Path) -> None:
    """From this machine, with a certificate that the node trusts and that is not its own: rejected, by name and all."""
    files = make_series(tmp_path / "series")
    other = authority.settings(authority.sign("other", address="", dns="other"))
    ours_is = tuple(names_of_ours(station.settings.tls))
    with pytest.raises(AssociationRejected):
        send_files(files, ours(station, tls=True, certificates=ours_is), "NPC_QA", other)
    assert station.queries.counts()["instances"] == 0


def test_a_node_that_would_not_trust_itself_is_told(tmp_path: Path, authority: Authority) -> None:
    """Its certificate is of another authority than those it trusts: `doctor` has the code and what to do, and the node
    starts all the same, for patients come by other certificates."""
    pair, stranger = authority.sign("node"), Authority(tmp_path / "elsewhere", "elsewhere")
    settings = settings_of(tmp_path, stranger.settings(pair))
    with pytest.raises(TlsFailed, match="Of our own certificate: unable to get local issuer certificate"):
        names_of_ours(settings.tls)
    with closing(Station(settings)) as station:
        schema.upgrade(station.engine)
        (told,) = [check for check in examine(settings, golden=False) if check.name == "constancy by TLS"]
        assert (told.outcome, told.said.split(":")[0]) == ("fault", "TLS_FAILED")
        role = ReceiveRole(settings)
        role.start()
        role.stop()
