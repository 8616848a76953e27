"""Settings: mistakes are told all at once, with their place, and nothing dangerous is the default."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from npc_rtnode import settings as module
from npc_rtnode.adapters.bundles import bundle_folder
from npc_rtnode.cli.config import check
from npc_rtnode.errors import BundleFault, ConfigFault, RulesFault
from npc_rtnode.settings import Settings, content_hash, load_settings

DESTINATION = 'ae_title = "TPS"\nhost = "127.0.0.1"\nport = 104\n'


def write(folder: Path, text: str) -> Path:
    """A settings file."""
    path = folder / "node.toml"
    path.write_text(text, "utf-8")
    return path


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Three mistakes give three lines, each with its path, one with the line and the word that was meant."""
    path = write(tmp_path, '[listener]\nport = 99999\nmax_asociations = 3\n[infer]\ndevice = "gpu"\n')
    with pytest.raises(ConfigFault) as caught:
        load_settings(path, {})
    said = str(caught.value)
    assert "listener.port (line 2)" in said
    assert "listener.max_asociations (line 3): no such setting; did you mean max_associations?" in said
    assert "infer.device" in said


def test_the_environment_overrides_one_value(tmp_path: Path) -> None:
    """NPC_RTNODE_LISTENER__PORT wins over the file, and an unknown one is a mistake too."""
    path = write(tmp_path, "[listener]\nport = 104\n")
    assert load_settings(path, {"NPC_RTNODE_LISTENER__PORT": "11113"}).listener.port == 11113
    with pytest.raises(ConfigFault, match="no such setting"):
        load_settings(path, {"NPC_RTNODE_LISTENER__PROT": "1"})


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "::", "node.hospital"])  # noqa: S104 - that is the point
def test_an_open_door_needs_names(tmp_path: Path, host: str) -> None:
    """Binding beyond this machine without naming who may send is refused."""
    with pytest.raises(ConfigFault, match="name who may send"):
        load_settings(write(tmp_path, f'[listener]\nhost = "{host}"\n'), {})


@pytest.mark.parametrize("title", ["", " PACS", "A" * 17, "PA\\CS", "PÄCS"])
def test_an_ae_title_is_checked(tmp_path: Path, title: str) -> None:
    """Titles that DICOM does not allow never reach the wire (PS3.5 6.2)."""
    text = f"[[listener.peers]]\nae_title = '{title}'\nnetworks = ['127.0.0.1/32']\n"
    with pytest.raises(ConfigFault, match="AE title"):
        load_settings(write(tmp_path, text), {})


@pytest.mark.parametrize("network", ["10.0.0.5/8", "10.0.0", "pacs", "10.0.0.0/33"])
def test_a_network_is_checked(tmp_path: Path, network: str) -> None:
    """An address with host bits set, or no address at all, is a mistake, never a prefix."""
    text = f"[[listener.peers]]\nae_title = 'PACS'\nnetworks = ['{network}']\n"
    with pytest.raises(ConfigFault, match="networks"):
        load_settings(write(tmp_path, text), {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[select]\nindication_text = ['NPC', '(npc']", "indication_text.1: '(npc' is not a regular expression"),
        ("[select]\nindication_text = ['(NPC)?']", "'(NPC)?' is found in every text"),
        ("[select]\nrules = ''", "select.rules (line 2)"),
        ("[content]\nroi_color = [230, 40, 256]", "content.roi_color.2"),
        ("[content]\nroi_color = [-1, 40, 40]", "content.roi_color.0"),
        ("[content]\nroi_name = 'GTV\\p'", "content.roi_name (line 2): printable ASCII"),
        ("[content]\nroi_name = 'GTVp  AI'", "content.roi_name (line 2): printable ASCII"),
        ("[content]\nroi_name = '鼻咽'", "content.roi_name (line 2): printable ASCII"),
        ("[content]\nstructure_set_label = ' '", "content.structure_set_label (line 2): printable ASCII"),
        ('[content]\nmanufacturer = "a\\tb"', "content.manufacturer (line 2): printable ASCII"),
        ("[content]\ndevice_serial = 'Ä'", "content.device_serial (line 2): printable ASCII"),
        ("[content]\nseries_number_sr = 2147483648", "content.series_number_sr"),
        ("[listener]\nhost = ''", "listener.host (line 2): a host is a name"),
        ("[infer]\ntimeout_s = inf", "infer.timeout_s"),
        ("[[destinations]]\nname = 'a'\nae_title = 'A'\nhost = ''\nport = 104", "host"),
        ("[[destinations]]\nname = 'a'\nae_title = 'A'\nhost = 'a b'\nport = 104", "host"),
        ("[[destinations]]\nname = 'a'\nae_title = 'A'\nhost = 'a'\nport = 0", "port"),
        ("listener = 5", "listener"),
    ],
)
def test_what_would_fail_later_fails_now(tmp_path: Path, text: str, said: str) -> None:
    """A pattern that does not compile, a colour out of range, text that no element takes: told before a patient."""
    with pytest.raises(ConfigFault) as caught:
        load_settings(write(tmp_path, text), {})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "variable"),
    [
        ("", "NPC_RTNODE_DESTINATIONS__PORT"),
        (f'[[destinations]]\nname = "tps"\n{DESTINATION}', "NPC_RTNODE_DESTINATIONS__PORT"),
        ("listener = 5", "NPC_RTNODE_LISTENER__PORT"),
    ],
)
def test_a_variable_for_what_is_no_section_is_named(tmp_path: Path, text: str, variable: str) -> None:
    """A list of tables has no single values; the mistake names the variable."""
    with pytest.raises(ConfigFault, match=variable):
        load_settings(write(tmp_path, text), {variable: "1"})


def test_config_check_names_rules_and_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it found is said: the rule set with its hash, the bundle with its own."""
    check(write(tmp_path, ""), as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["rules"]["name"] == "npc_ce_t1"
    assert [len(said["rules"]["hash"]), len(said["bundle"]["sha256"]), said["bundle"]["data"]] == [64, 64, "synthetic"]
    check(write(tmp_path, ""), as_json=False)
    told = capsys.readouterr().out
    assert said["rules"]["hash"] in told
    assert said["bundle"]["sha256"] in told


def test_config_check_finds_what_is_wrong_with_rules_and_bundle(tmp_path: Path) -> None:
    """A rule set that does not parse, a bundle that is missing or of other stages: each by its own name, exit 2."""
    (tmp_path / "rules.toml").write_text("name = 1\n")
    with pytest.raises(RulesFault):
        check(write(tmp_path, f"[select]\nrules = '{tmp_path / 'rules.toml'}'\n"))
    with pytest.raises(BundleFault):
        check(write(tmp_path, f"[infer]\nbundle = '{tmp_path}'\n"))
    manifest = json.loads((bundle_folder(None) / "bundle.json").read_text())
    (tmp_path / "bundle.json").write_text(json.dumps({**manifest, "stage_classes": ["T1", "T2", "T3"]}))
    with pytest.raises(BundleFault, match="T1, T2, T3") as caught:
        check(write(tmp_path, f"[infer]\nbundle = '{tmp_path}'\n"))
    assert caught.value.exit_code == 2


def test_two_destinations_of_one_name_are_refused(tmp_path: Path) -> None:
    """A name means one destination."""
    text = f'[[destinations]]\nname = "tps"\n{DESTINATION}[[destinations]]\nname = "tps"\n{DESTINATION}'
    with pytest.raises(ConfigFault, match="same name"):
        load_settings(write(tmp_path, text), {})


def test_a_missing_or_broken_file_says_what_to_do(tmp_path: Path) -> None:
    """A path that is not there points to `config example`; broken TOML names the line."""
    with pytest.raises(ConfigFault, match="config example"):
        load_settings(tmp_path / "none.toml", {})
    with pytest.raises(ConfigFault, match="line 1"):
        load_settings(write(tmp_path, "[listener\n"), {})


def test_only_content_settings_enter_the_work_key() -> None:
    """A port or a retry time changes no UID; an ROI name or the time zone does (ADR 0003)."""
    base = Settings()
    port = base.model_copy(update={"listener": base.listener.model_copy(update={"port": 1})})
    name = base.model_copy(update={"content": base.content.model_copy(update={"roi_name": "GTVp"})})
    zone = base.model_copy(update={"node": base.node.model_copy(update={"utc_offset": "+0800"})})
    site = base.model_copy(update={"node": base.node.model_copy(update={"site": "another site"})})
    assert content_hash(port) == content_hash(base)
    assert len({content_hash(s) for s in (base, name, zone, site)}) == 4


def test_a_release_that_writes_other_content_has_other_work_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """CONTENT_VERSION is in the hash, so a mended writer makes new objects instead of keeping the old (ADR 0003)."""
    before = content_hash(Settings())
    monkeypatch.setattr(module, "CONTENT_VERSION", module.CONTENT_VERSION + 1)
    assert content_hash(Settings()) != before


def test_no_destination_is_a_test_system_unless_it_says_so(tmp_path: Path) -> None:
    """`test` is false by default, so synthetic weights reach nobody by an oversight."""
    settings = load_settings(write(tmp_path, f'[[destinations]]\nname = "tps"\n{DESTINATION}'), {})
    assert settings.destination("tps").test is False
    with pytest.raises(ConfigFault, match="configured: tps"):
        settings.destination("pacs")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f'[qa]\nenabled = true\ndestination = "tps"\n[[destinations]]\nname = "tps"\n{DESTINATION}', "no test system"),
        ('[qa]\nenabled = true\ndestination = "nobody"\n', "no destination is called 'nobody'"),
        ('[qa]\nenabled = true\nae_title = "NPC_RTNODE"\n', "constancy needs one of its own"),
        ('[qa]\nat = "24:00"\n', "qa.at"),
    ],
)
def test_constancy_that_could_reach_a_patient_or_nobody_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """A clinical destination, one that is not there, a title of the clinic's, no hour of the day."""
    with pytest.raises(ConfigFault, match=words):
        load_settings(write(tmp_path, text), {})


def test_the_constancy_title_is_taken_from_this_machine_alone() -> None:
    """With it enabled the listener knows one more peer and one more called title; without it, none."""
    assert Settings().listening() == Settings().listener
    there = Settings.model_validate({"qa": {"enabled": True}, "listener": {"host": "127.0.0.1"}}).listening()
    assert [(one.ae_title, one.networks) for one in there.peers] == [("NPC_QA", ("127.0.0.1/32", "127.0.0.0/8"))]
    assert there.called[-1].model_dump() == {"ae_title": "NPC_QA", "indication": "npc", "priority": 80}


@pytest.mark.parametrize(("port", "clear"), [(-1, False), (0, True)])
def test_the_phantom_comes_in_the_clear_only_where_there_is_such_a_port(port: int, clear: bool) -> None:
    """With [tls], by listener.plaintext_port if it is set, and else with this node's own certificate."""
    tls, listener = {"certificate": "a", "key": "b", "trusted": "c"}, {"plaintext_port": port}
    settings = Settings.model_validate({"qa": {"enabled": True}, "tls": tls, "listener": listener})
    peer = settings.listening(["dns:node"]).peers[-1]
    assert (peer.plaintext, settings.calls_itself_by_tls, peer.certificates) == (clear, not clear, ("dns:node",))


PG: dict[str, object] = {"database": {"url": "postgresql+psycopg://u@127.0.0.1/x"}}
HOST = {"host": "gpu-1", "store": "/mnt/node"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"work": {"engine": "procrastinate"}}, "work.engine procrastinate needs PostgreSQL"),
        ({"work": HOST}, "shares the node's ledger by PostgreSQL"),
        ({**PG, "work": {"host": "gpu-1"}}, "needs one of node .* and store"),
        ({**PG, "work": {"host": "node", "store": "/mnt/x"}}, "the name of the node itself"),
        ({**PG, "work": {**HOST, "node": "http://10.1.2.3:1"}}, "needs one of node .* and store"),
        ({**PG, "work": {"host": "gpu-1", "node": "http://10.1.2.3:1"}}, "shared secret"),
        ({"work": {"listen": "127.0.0.1:1"}}, "shared secret"),
        ({"work": {"listen": "0.0.0.0:1", "secret": "/s"}}, "beyond loopback files travel by TLS alone"),
        ({**PG, "work": {"host": "a", "node": "https://n:1", "secret": "/s"}}, "https needs the certificates"),
        ({"work": {"resources": ["send:nobody"]}}, "send:nobody is none of cpu, gpu"),
        ({"work": {"beat_s": 10, "silent_s": 20}}, "at least three times beat_s"),
        ({"work": {"off_peak": "20:00-06:00", "off_peak_zone": "Mars/Base"}}, "no time zone is called 'Mars/Base'"),
        ({"listener": {"called": [{"ae_title": "A", "priority": 101}]}}, "less than or equal to 100"),
    ],
)
def test_how_work_is_shared_must_fit_together(settings: dict[str, object], said: str) -> None:
    """Each combination that cannot work, or would send images in the clear, is refused when the settings are read."""
    with pytest.raises(ValidationError, match=said):
        Settings.model_validate(settings)


def test_a_host_takes_what_it_names_and_everything_without_names() -> None:
    """Resources of a worker, and hours in which the less urgent may begin."""
    assert Settings.model_validate({}).work.takes("send:tps")
    host = Settings.model_validate({**PG, "work": {**HOST, "resources": ["gpu"], "off_peak": "20:00-06:00"}}).work
    assert (host.takes("gpu"), host.takes("cpu")) == (True, False)
    assert host.night is not None
    assert host.night.window.is_open(datetime(2026, 11, 23, 21, tzinfo=UTC))
