"""`purge` and `fsck` as an operator meets them: exit codes, words, JSON, and a node's own folders."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.engine import open_engine
from npc_rtnode.app import Station
from npc_rtnode.cli import app
from npc_rtnode.cli.studies import _series_story
from npc_rtnode.errors import Forbidden
from npc_rtnode.settings import load_settings
from tests.builders.house import House
from tests.builders.ledger import Ledger

LONG_AGO = 1_700_000_000


@dataclass
class Site:
    """A node's home with one delivered study, and its settings file."""

    config: Path
    house: House

    def run(self, *args: str) -> Result:
        """`npc-rtnode …` in this process."""
        return CliRunner().invoke(app, [*args, "--config", str(self.config)])

    def fsck(self, *args: str) -> dict[str, Any]:
        """What `fsck --json` says, by promise."""
        done = self.run("fsck", "--json", *args)
        told = json.loads(done.stdout)
        assert done.exit_code == (0 if told["whole"] else 1)
        return {one["code"]: one for one in told["promises"]}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """SQLite below the home; `retain` lets delivered inputs go after a day."""
    home, config = tmp_path / "node", tmp_path / "node.toml"
    text = f'[node]\nhome = "{home}"\n[listener]\nreserve_free_mb = 1\n[retain]\ndelivered_days = 1\nobjects_days = 0\n'
    config.write_text(text, "utf-8")
    station = Station(load_settings(config, {}))
    schema.upgrade(station.engine)
    station.close()
    ledger = Ledger(open_engine(f"sqlite:///{home / 'ledger.db'}"))
    made = Site(config, House(ledger, home))
    made.house.deliver()
    yield made
    ledger.engine.dispose()


def test_fsck_says_of_each_promise_how_many_were_looked_at(site: Site) -> None:
    """All fourteen in a table with counts, exit code 0; the same in JSON."""
    done = site.run("fsck")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("holds") == 14
    assert "4 received, 0 removed, 0 unnamed" in done.stdout
    told = site.fsck()
    assert [one["checked"] for one in told.values()].count(0) == 2
    assert told["I1"]["todo"] == ""


def test_fsck_names_what_is_broken_and_what_to_do(site: Site) -> None:
    """Exit code 1; the promise, the row and the way out stand below the table."""
    next(site.house.spool.path(name) for name in site.house.spool.names()).unlink()
    done = site.run("fsck")
    assert done.exit_code == 1
    assert "BROKEN" in done.stdout
    assert "I1: have the series sent again" in done.stdout
    assert "of series 1: The spool does not hold" in done.stdout
    assert site.fsck()["I1"]["broken"] == 1
    assert "its file is not there" in site.fsck("--quick")["I1"]["breaches"][0]


def test_fsck_sees_litter_and_names_in_the_home_itself(site: Site) -> None:
    """An old part file breaks I12; a patient's number in a file name, or in a log that is named, breaks I11."""
    part = site.house.root / "spool" / "incoming" / "left.part"
    part.touch()
    assert site.fsck()["I12"]["broken"] == 0, "somebody may be writing it"
    os.utime(part, (LONG_AGO, LONG_AGO))
    assert site.fsck()["I12"]["breaches"] == ["unfinished files older than 3600 s: 1, at most 0"]
    log = site.house.root.parent / "serve.log"
    log.write_text('{"event": "fine"}\n{"patient": "PHANTOM-1"}\n', "utf-8")
    assert site.fsck("--log", str(log))["I11"]["breaches"] == ["a patient is named in serve.log, line 2"]
    (site.house.root / "PHANTOM-1.dcm").touch()
    assert site.fsck()["I11"]["breaches"] == ["a patient is named in a file name"]


def test_purge_rehearses_and_then_does_what_the_settings_let_go(site: Site) -> None:
    """By --dry-run the same lines and every file still there; then the files go, fsck holds, `studies show` tells."""
    rehearsed = site.run("purge", "--reason", "the disk is full", "--dry-run")
    assert rehearsed.exit_code == 0, rehearsed.output
    assert "4 files of the spool folder" in rehearsed.stdout
    assert len(list(site.house.spool.names())) == 4
    done = site.run("purge", "--reason", "the disk is full")
    assert done.stdout == rehearsed.stdout.replace("would do: ", "")
    assert (len(list(site.house.spool.names())), len(list(site.house.outbox.names()))) == (0, 2)
    told = site.fsck()
    assert [one["code"] for one in told.values() if one["broken"]] == []
    assert told["I1"]["counts"] == {"received": 4, "removed": 4, "unnamed": 0}
    shown = json.loads(site.run("studies", "show", site.house.ledger.study(), "--json").stdout)
    (removed,) = [one for one in shown["series"][0]["removed"] if one["place"] == "spool"]
    assert (removed["files"], removed["because"][:17]) == (4, "the disk is full;")
    assert removed["by"].startswith("operator:")
    assert any(
        line.startswith("  removed           4 files of the spool, ") for line in _series_story(shown["series"][0])
    )


def test_purge_of_a_study_that_is_needed_is_refused(site: Site) -> None:
    """FORBIDDEN with the reason, whatever the days say, and no file is touched."""
    ledger = site.house.ledger
    ledger.desk.hold(ledger.study(), ledger.word())
    done = site.run("purge", "--study", ledger.study(), "--reason", "x")
    assert isinstance(done.exception, Forbidden)
    assert "HELD: the study is held by operator:ada" in str(done.exception)
    assert len(list(site.house.spool.names())) == 4
    assert site.run("purge", "--reason", "x").stdout == "nothing has been kept long enough that may go\n"
