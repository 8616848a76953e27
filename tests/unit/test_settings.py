"""Settings: mistakes are told all at once, with their place, and nothing dangerous is the default."""

from __future__ import annotations

from pathlib import Path

import pytest

from npc_rtnode.errors import ConfigFault
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
    assert content_hash(port) == content_hash(base)
    assert len({content_hash(s) for s in (base, name, zone)}) == 3


def test_no_destination_is_a_test_system_unless_it_says_so(tmp_path: Path) -> None:
    """`test` is false by default, so synthetic weights reach nobody by an oversight."""
    settings = load_settings(write(tmp_path, f'[[destinations]]\nname = "tps"\n{DESTINATION}'), {})
    assert settings.destination("tps").test is False
    with pytest.raises(ConfigFault, match="configured: tps"):
        settings.destination("pacs")
