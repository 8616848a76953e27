"""Mutual TLS on the wire, both ways, with DCMTK as the other maker: who is let in, who is not, and that no silence of a
peer holds up another."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pynetdicom import AE

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.dicom import tls as module
from npc_rtnode.adapters.dicom.expiry import expiries, say_expiries
from npc_rtnode.adapters.dicom.listener.server import Listener
from npc_rtnode.adapters.dicom.sender import DicomSender, send_files
from npc_rtnode.adapters.dicom.simulator import StoringSCP
from npc_rtnode.adapters.dicom.tls import Credentials, client_context, server_context
from npc_rtnode.app import ReceiveRole, Station
from npc_rtnode.cli.checks import _certificates
from npc_rtnode.errors import AssociationRejected, CannotListen, ConfigFault, ContextRefused, PeerError, TlsFailed
from npc_rtnode.settings import Destination, ListenerSettings, Peer, Settings, TlsSettings
from tests.acceptance.node import free_port
from tests.builders.certificates import Authority, Pair
from tests.builders.mr_series import make_series
from tests.builders.pdu import COMMAND, LAST, p_data, pdv, store_command
from tests.fakes.raw_peer import RawPeer
from tests.integration.test_listener import RecordingSink, eventually

HERE = ("127.0.0.1/32",)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The hospital's own."""
    return Authority(tmp_path / "pki")


@pytest.fixture
def ours(authority: Authority) -> Pair:
    """The node's certificate."""
    return authority.sign("node")


@pytest.fixture
def pacs(authority: Authority) -> Pair:
    """The sender's certificate."""
    return authority.sign("pacs", dns="pacs.example")


@pytest.fixture
def slice_file(tmp_path: Path) -> Path:
    """One MR slice."""
    return make_series(tmp_path / "series", slices=1)[0]


class Node:
    """A listener with certificates; PACS is bound to the certificate of `pacs` unless wished otherwise."""

    def __init__(self, tls: TlsSettings, peers: tuple[Peer, ...], **wishes: Any) -> None:
        self.sink = RecordingSink()
        settings = ListenerSettings(peers=peers, **{"port": 0, **wishes})
        self.listener = Listener(settings, self.sink, credentials=Credentials(tls))
        self.port = self.listener.start()


@pytest.fixture
def start(authority: Authority, ours: Pair, pacs: Pair) -> Iterator[Callable[..., Node]]:
    """Starts nodes, and stops them."""
    with contextlib.ExitStack() as stack:

        def start_one(*peers: Peer, **wishes: Any) -> Node:
            bound = Peer(ae_title="PACS", networks=HERE, certificates=(pacs.fingerprint,))
            node = Node(authority.settings(ours), peers or (bound,), **wishes)
            stack.callback(node.listener.stop, 0.2)
            return node

        yield start_one


def to(port: int, **wishes: Any) -> Destination:
    """The system on this port, called by TLS."""
    usual = {
        "name": "x",
        "ae_title": "NPC_RTNODE",
        "calling_ae": "PACS",
        "host": "127.0.0.1",
        "port": port,
        "tls": True,
    }
    return Destination(**{**usual, "timeout_s": 10, "wall_clock_s": 40, **wishes})


def dcmtk(program: str, *args: object) -> subprocess.CompletedProcess[bytes]:
    """One of DCMTK's tools."""
    return subprocess.run([program, *map(str, args)], capture_output=True, timeout=60, check=False)


def secured(pair: Pair, authority: Authority) -> list[object]:
    """DCMTK's options for mutual TLS by its BCP 195 profile."""
    return ["+tls", pair.key, pair.certificate, "+cf", authority.trusted]


# --- inbound ----------------------------------------------------------------------------------------------------------


@pytest.mark.peer("storescu")
@pytest.mark.parametrize("profile", ["--profile-bcp195-nd", "--profile-bcp195", "--profile-bcp195-ex"])
def test_dcmtks_storescu_is_understood(
    start: Callable[..., Node], peer: Any, authority: Authority, pacs: Pair, slice_file: Path, profile: str
) -> None:
    """Each of DCMTK's three BCP 195 profiles finds a suite with us, and its slice arrives."""
    node = start()
    address = ["-aet", "PACS", "-aec", "NPC_RTNODE", "127.0.0.1", node.port, slice_file]
    done = dcmtk(peer("storescu"), *secured(pacs, authority), profile, *address)
    assert done.returncode == 0, done.stderr
    assert len(node.sink.received) == 1


def test_our_sender_and_our_listener_understand_each_other(
    start: Callable[..., Node], authority: Authority, pacs: Pair, slice_file: Path
) -> None:
    """By TLS 1.3 as both prefer it; the slice's bytes are those of the file."""
    node = start()
    (outcome,) = send_files([slice_file], to(node.port), tls=authority.settings(pacs))
    assert outcome.stored
    assert slice_file.read_bytes().endswith(node.sink.received[0].encoded)


@pytest.mark.parametrize("pdu_bytes", [5000, 131072])
def test_a_large_object_comes_through_whole(
    start: Callable[..., Node], authority: Authority, pacs: Pair, tmp_path: Path, pdu_bytes: int
) -> None:
    """Two megabytes in PDUs that end within TLS records, or span many: what is decrypted already is waited for by no
    poll, so that it takes seconds at most, and the sink has each byte once."""
    (file,) = make_series(tmp_path / "large", slices=1, rows=1024, columns=1024)
    node = start(max_pdu_bytes=pdu_bytes)
    (outcome,) = send_files([file], to(node.port), tls=authority.settings(pacs))
    assert outcome.stored
    (received,) = node.sink.received
    assert len(received.encoded) > 2 << 20
    assert file.read_bytes().endswith(received.encoded)


@pytest.mark.parametrize("binding", ["dns:pacs.example", "ip:127.0.0.1"])
def test_a_certificate_is_bound_by_a_name_too(
    start: Callable[..., Node], authority: Authority, pacs: Pair, binding: str
) -> None:
    """A subjectAltName stands for the AE title, so that a renewed certificate needs no new setting."""
    node = start(Peer(ae_title="PACS", networks=HERE, certificates=(binding,)))
    assert DicomSender(tls=authority.settings(pacs)).echo(to(node.port)) > 0


def test_another_certificate_of_the_same_authority_is_not_this_ae_title(
    start: Callable[..., Node], authority: Authority
) -> None:
    """Trust in the authority is no licence to call oneself PACS: the association is rejected, and told."""
    node = start()
    other = authority.settings(authority.sign("other", dns="other.example"))
    with pytest.raises(AssociationRejected):
        DicomSender(tls=other).echo(to(node.port))
    assert node.sink.told("rejected") == ["calling AE title not recognised for this certificate, or without one"]


def test_a_certificate_of_another_authority_is_refused(
    start: Callable[..., Node], authority: Authority, tmp_path: Path
) -> None:
    """It never comes to an association."""
    node, stranger = start(), Authority(tmp_path / "elsewhere", "stranger")
    pair = stranger.sign("pacs")
    told = {"certificate": str(pair.certificate), "key": str(pair.key), "trusted": str(authority.trusted)}
    with pytest.raises(PeerError):
        DicomSender(tls=TlsSettings(**told)).echo(to(node.port))
    assert node.sink.events == []


@pytest.mark.parametrize("days", [-1, -300])
def test_a_certificate_that_has_ended_is_refused(start: Callable[..., Node], authority: Authority, days: int) -> None:
    """However well it is bound."""
    old = authority.sign("old", days=days)
    node = start(Peer(ae_title="PACS", networks=HERE, certificates=(old.fingerprint,)))
    with pytest.raises(PeerError):
        DicomSender(tls=authority.settings(old)).echo(to(node.port))
    assert node.sink.events == []


def handshake(port: int, authority: Authority, pair: Pair | None, change: Callable[[ssl.SSLContext], None]) -> bytes:
    """A client of Python's own; what it reads after its handshake."""
    context = ssl.create_default_context(cafile=str(authority.trusted))
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    change(context)
    plain = socket.create_connection(("127.0.0.1", port), timeout=5)
    with plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
        return connection.recv(1)


def test_who_shows_no_certificate_is_refused(start: Callable[..., Node], authority: Authority) -> None:
    """TLS without a client's certificate ends with the handshake."""
    node = start()
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
        handshake(node.port, authority, None, lambda _: None)


@pytest.mark.parametrize("suites", ["ECDHE-ECDSA-AES128-SHA256:@SECLEVEL=0", "ECDHE-ECDSA-AES256-SHA:@SECLEVEL=0"])
def test_what_bcp_195_rules_out_is_refused(
    start: Callable[..., Node], authority: Authority, pacs: Pair, suites: str
) -> None:
    """Suites without AEAD find no partner here."""

    def weaken(context: ssl.SSLContext) -> None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(suites)

    node = start()
    with pytest.raises(OSError):  # an alert, or a reset where the alert was not read in time
        handshake(node.port, authority, pacs, weaken)


def test_both_contexts_know_tls_1_2_with_aead_and_tls_1_3_alone(authority: Authority, ours: Pair) -> None:
    """No older version, no suite without AEAD or without forward secrecy, no compression, no renegotiation."""
    settings = authority.settings(ours)
    for context in (server_context(settings), client_context(settings, (), [])):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert all(suite["aead"] for suite in context.get_ciphers())
        assert {suite["kea"] for suite in context.get_ciphers()} <= {"kx-ecdhe", "kx-any"}
        assert context.options & ssl.OP_NO_COMPRESSION
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.verify_mode == ssl.CERT_REQUIRED


# --- plaintext --------------------------------------------------------------------------------------------------------


def test_the_tls_port_speaks_no_plaintext(start: Callable[..., Node], pacs: Pair) -> None:
    """A DICOM request in the clear is no handshake: the connection is closed, nothing is answered."""
    node = start()
    with pytest.raises(PeerError):
        DicomSender().echo(to(node.port, tls=False))
    assert node.sink.events == []
    assert node.listener.ports == [node.port]


def test_plaintext_beside_tls_is_for_those_alone_who_are_named(start: Callable[..., Node], pacs: Pair) -> None:
    """Only with plaintext_port, and only for a peer with plaintext = true."""
    old = Peer(ae_title="OLD_MR", networks=HERE, plaintext=True)
    bound = Peer(ae_title="PACS", networks=HERE, certificates=(pacs.fingerprint,))
    node = start(old, bound, plaintext_port=0)
    _, plain = node.listener.ports
    assert DicomSender().echo(to(plain, tls=False, calling_ae="OLD_MR")) > 0
    with pytest.raises(AssociationRejected):
        DicomSender().echo(to(plain, tls=False))


def test_a_plaintext_port_in_use_is_said_and_the_first_port_let_go(start: Callable[..., Node], tmp_path: Path) -> None:
    """The message names the setting whose port is taken; the TLS port that was bound before it is free again."""
    with socket.create_server(("127.0.0.1", 0)) as other, socket.create_server(("127.0.0.1", 0)) as held:
        taken, free = other.getsockname()[1], held.getsockname()[1]
        held.close()
        with pytest.raises(CannotListen, match=rf"listener\.plaintext_port, 127\.0\.0\.1:{taken}: .*in use"):
            start(port=free, plaintext_port=taken)
        with socket.create_server(("127.0.0.1", free)):
            pass


def test_a_peer_that_could_never_call_is_a_mistake_of_the_settings(authority: Authority, ours: Pair) -> None:
    """With certificates in force each peer is bound to some, or says that it comes without."""
    told: dict[str, Any] = {"tls": authority.settings(ours).model_dump()}
    told["listener"] = {"peers": [{"ae_title": "PACS", "networks": list(HERE)}]}
    with pytest.raises(ValidationError, match="PACS can never call"):
        Settings.model_validate(told)


def test_a_destination_by_tls_needs_certificates() -> None:
    """Else nothing could ever be sent to it."""
    with pytest.raises(ValidationError, match="x: tls is asked for"):
        Settings.model_validate({"destinations": [to(1).model_dump()]})


def test_the_three_files_are_set_together() -> None:
    """A certificate without its key is half a sentence."""
    with pytest.raises(ValidationError, match="set together or not at all"):
        TlsSettings(certificate="x")


# --- roles ------------------------------------------------------------------------------------------------------------


def test_a_peer_does_what_its_roles_say(
    start: Callable[..., Node], authority: Authority, pacs: Pair, slice_file: Path
) -> None:
    """Who may only ask for commitment is let in, and no storage class is offered to it."""
    node = start(Peer(ae_title="PACS", networks=HERE, certificates=(pacs.fingerprint,), roles=("commit",)))
    tls = authority.settings(pacs)
    assert DicomSender(tls=tls).echo(to(node.port)) > 0
    with pytest.raises(ContextRefused):
        send_files([slice_file], to(node.port), tls=tls)
    assert node.sink.received == []


# --- silence ----------------------------------------------------------------------------------------------------------


def test_silence_before_the_handshake_holds_up_nobody(
    start: Callable[..., Node], authority: Authority, pacs: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten that connect and say nothing: another one is served at once, and they are cut in time (row 14)."""
    monkeypatch.setattr(module, "HANDSHAKE_S", 1.5)
    node = start()
    silent = [socket.create_connection(("127.0.0.1", node.port), timeout=10) for _ in range(10)]
    begun = time.monotonic()
    context = client_context(authority.settings(pacs), (), [])
    with context.wrap_socket(socket.create_connection(("127.0.0.1", node.port)), server_hostname="127.0.0.1"):
        assert time.monotonic() - begun < 1.0
    assert [connection.recv(1) for connection in silent] == [b""] * 10
    for connection in silent:
        connection.close()
    assert eventually(lambda: not any(node.listener._door._shaking.values()))


def test_a_handshake_that_drips_is_cut(start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is for the whole handshake, not for each byte of it."""
    monkeypatch.setattr(module, "HANDSHAKE_S", 1.0)
    node = start()
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", node.port), timeout=5) as connection, contextlib.suppress(OSError):
        for byte in b"\x16\x03\x01\x02\x00" + bytes(500):
            connection.sendall(bytes([byte]))
            time.sleep(0.2)
    assert time.monotonic() - begun < 4.0


def test_silent_handshakes_take_no_more_than_the_waiting_room(start: Callable[..., Node]) -> None:
    """From one address no more than 32 wait; the next one is closed at once."""
    node = start()
    with contextlib.ExitStack() as stack:
        for _ in range(32):
            stack.enter_context(socket.create_connection(("127.0.0.1", node.port), timeout=2))
        assert eventually(lambda: node.listener._door._shaking["127.0.0.1"] == 32)
        one_more = stack.enter_context(socket.create_connection(("127.0.0.1", node.port), timeout=2))
        assert one_more.recv(1) == b""


# --- the role ---------------------------------------------------------------------------------------------------------


def test_the_receive_role_listens_with_the_certificates_of_the_settings(
    authority: Authority, ours: Pair, pacs: Pair, tmp_path: Path
) -> None:
    """TLS on its port, plaintext on the second one that the settings ask for, both ports told in the home."""
    told: dict[str, Any] = {"node": {"home": tmp_path / "home"}, "tls": authority.settings(ours).model_dump()}
    bound = {"ae_title": "PACS", "networks": list(HERE), "certificates": [pacs.fingerprint], "plaintext": True}
    told["listener"] = {"port": 0, "plaintext_port": 0, "reserve_free_mb": 1, "peers": [bound]}
    settings = Settings.model_validate(told)
    station = Station(settings)
    schema.upgrade(station.engine)
    role = ReceiveRole(settings)
    role.start()
    try:
        secure, plain = json.loads(station.home.listener_file.read_text("ascii"))["ports"]
        assert DicomSender(tls=authority.settings(pacs)).echo(to(secure)) > 0
        assert DicomSender().echo(to(plain, tls=False)) > 0
    finally:
        role.stop()
        station.close()


# --- renewal ----------------------------------------------------------------------------------------------------------


def shown_by(port: int, authority: Authority, pair: Pair) -> str:
    """The fingerprint of what answers on this port."""
    context = client_context(authority.settings(pair), (), [])
    plain = socket.create_connection(("127.0.0.1", port), timeout=5)
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
        return next(name for name in module.names_shown(connection) if name.startswith("sha256:"))


def test_new_certificates_count_from_the_next_caller_on(
    start: Callable[..., Node], authority: Authority, ours: Pair, pacs: Pair
) -> None:
    """Without a restart; a certificate whose key is not there yet leaves the old pair in force."""
    node, old = start(), ours.fingerprint
    assert shown_by(node.port, authority, pacs) == old
    new = authority.sign("renewed")
    os.replace(new.certificate, ours.certificate)
    assert shown_by(node.port, authority, pacs) == old
    os.replace(new.key, ours.key)
    assert shown_by(node.port, authority, pacs) == ours.fingerprint != old


def test_a_key_with_a_password_is_refused_and_nobody_is_asked(tmp_path: Path, authority: Authority, ours: Pair) -> None:
    """A daemon has no terminal; the message names the three files' settings and no path."""
    sealed = tmp_path / "sealed.key"
    command = ["openssl", "pkey", "-in", str(ours.key), "-aes128", "-passout", "pass:x", "-out", str(sealed)]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(ConfigFault, match="certificate, key and trusted do not make a set"):
        Credentials(authority.settings(ours, key=str(sealed)))


@pytest.mark.parametrize(("days", "outcome"), [(300, "good"), (20, "warning"), (3, "fault")])
def test_doctor_tells_when_certificates_end(authority: Authority, days: int, outcome: str) -> None:
    """A warning within 30 days, a fault within 7."""
    checks = list(_certificates(authority.settings(authority.sign("ending", days=days))))
    assert {check.name: check.outcome for check in checks} == {"tls.certificate": outcome, "tls.trusted": "good"}


def test_doctor_tells_of_a_key_that_others_may_read(authority: Authority, ours: Pair) -> None:
    """It is the one file that is nobody else's business."""
    ours.key.chmod(0o640)
    assert [c.name for c in _certificates(authority.settings(ours)) if c.outcome == "warning"] == ["tls.key"]


def test_the_log_tells_when_certificates_end(
    authority: Authority, ours: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the setting's name and the days that are left; nothing while there is time."""
    settings = authority.settings(ours)
    now = datetime.now(UTC)
    say_expiries(settings, now)
    assert capsys.readouterr().out == ""
    say_expiries(settings, now + timedelta(days=360))
    assert "a certificate ends soon" in (said := capsys.readouterr().out)
    assert "tls.certificate" in said
    assert [one.days_left(now) for one in expiries(settings)] == [364, 364]


# --- outbound ---------------------------------------------------------------------------------------------------------


@pytest.mark.peer("storescp")
def test_dcmtks_storescp_is_served(
    peer: Any, authority: Authority, ours: Pair, tmp_path: Path, slice_file: Path
) -> None:
    """Our sender to DCMTK's SCP by its non-downgrading profile; without TLS it gets nowhere."""
    arrivals, port = tmp_path / "arrivals", free_port()
    arrivals.mkdir()
    options = [*secured(authority.sign("tps"), authority), "--profile-bcp195-nd", "-aet", "TPS", "-od", arrivals]
    running = subprocess.Popen(
        [peer("storescp"), *map(str, options), str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        assert eventually(lambda: not _refused(port), 20)
        (outcome,) = send_files([slice_file], to(port, ae_title="TPS"), tls=authority.settings(ours))
        assert outcome.stored
        assert len(list(arrivals.iterdir())) == 1
        with pytest.raises(PeerError):
            DicomSender().echo(to(port, ae_title="TPS", tls=False))
    finally:
        running.terminate()
        running.wait(20)


def _refused(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        return False
    return True


@pytest.fixture
def tps(authority: Authority, tmp_path: Path) -> Iterator[tuple[StoringSCP, int, Pair]]:
    """A TPS that speaks TLS: pynetdicom's own server with a context of Python's own."""
    pair = authority.sign("tps", dns="tps.example", address="")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.trusted))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(pair.certificate, pair.key)
    ae = AE("TPS")
    ae.add_supported_context("1.2.840.10008.1.1")
    server = ae.start_server(("127.0.0.1", 0), block=False, ssl_context=context)
    assert server is not None
    yield StoringSCP("TPS", tmp_path), int(server.server_address[1]), pair
    ae.shutdown()


def test_who_answers_must_be_who_was_called(
    tps: tuple[StoringSCP, int, Pair], authority: Authority, ours: Pair
) -> None:
    """A certificate without the address that was called is refused; bound by name or fingerprint it counts."""
    _, port, pair = tps
    sender = DicomSender(tls=authority.settings(ours))
    with pytest.raises(TlsFailed, match=r"127\.0\.0\.1"):
        sender.echo(to(port, ae_title="TPS"))
    for bound in ("dns:tps.example", pair.fingerprint):
        assert sender.echo(to(port, ae_title="TPS", certificates=(bound,))) > 0
    with pytest.raises(TlsFailed, match=r" its certificate is none of those that are bound to it\.$"):
        sender.echo(to(port, ae_title="TPS", certificates=("dns:other.example",)))


def test_what_is_read_while_the_connection_is_cut_was_sent(
    start: Callable[..., Node], pacs: Pair, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never the ciphertext that is on the wire, which would pass for pixels, nor another connection's bytes: nobody
    shuts TLS down, which is what makes a reader go on with the bare socket."""
    shut: list[str] = []
    monkeypatch.setattr(ssl.SSLSocket, "shutdown", lambda _socket, _how: shut.append(threading.current_thread().name))
    node = start()
    trusting = client_context(authority.settings(pacs), (pacs.fingerprint,), [])
    trusting.sslsocket_class = ssl.SSLSocket
    for _ in range(20):
        with RawPeer(node.port) as peer, contextlib.suppress(OSError):
            peer.socket = trusting.wrap_socket(peer.socket)
            peer.associate(calling=b"PACS")
            peer.send(p_data(pdv(1, COMMAND | LAST, store_command("1.2.3"))))
            threading.Timer(0.005, _cut, (node,)).start()
            for _ in range(2000):
                peer.socket.sendall(p_data(pdv(1, 0, bytes(4000))))
    assert eventually(node.listener._door.empty)
    assert shut == []
    assert sum(len(incoming.data) for incoming in node.sink.begun) > 100_000
    assert [incoming for incoming in node.sink.begun if incoming.data.strip(b"\0")] == []


def _cut(node: Node) -> None:
    for assoc in list(node.listener._door._open):
        assoc.cut()
