"""Files between a node and a worker host: real sockets, real TLS; whatever is not what it should be is not believed."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest

from npc_rtnode.adapters.dicom.tls import client_context, server_context
from npc_rtnode.adapters.exchange import (
    OUTBOX,
    SPOOL,
    Counter,
    Errand,
    FetchedPredictions,
    FetchedSpool,
    Rooms,
    Secret,
)
from npc_rtnode.adapters.predictions import PredictionFolder
from npc_rtnode.adapters.spool import FileSpool
from npc_rtnode.app import Station
from npc_rtnode.domain.identifiers import sha256_hex
from npc_rtnode.domain.prediction import Answer
from npc_rtnode.errors import CannotListen, ConfigFault, DiskLow, FilesAway, NotFound, Unreadable
from npc_rtnode.settings import Settings
from tests.builders.certificates import Authority
from tests.builders.outputs import ball, bundle_statement, prediction_of
from tests.builders.workers import wait_for
from tests.fakes.disk import PAGE, SmallDisk

KEY = "f" * 64


def secret(folder: Path, text: str = "s" * 40) -> Secret:
    """A secret in a file of its own."""
    path = folder / f"secret-{text[:3]}"
    path.write_text(text)
    path.chmod(0o600)
    return Secret(path)


class Node:
    """A node's folders and its desk for files."""

    def __init__(self, folder: Path, context: Callable[[], ssl.SSLContext] | None = None) -> None:
        self.folder = folder
        self.spool, self.outbox = FileSpool(folder / "spool", 0), FileSpool(folder / "outbox", 0)
        self.secret = secret(folder)
        rooms = Rooms({SPOOL: self.spool, OUTBOX: self.outbox}, folder / "work")
        self.counter = Counter(("127.0.0.1", 0), rooms, self.secret, context)
        self.counter.start()

    def errand(self, scheme: str = "http", context: ssl.SSLContext | None = None, said: Secret | None = None) -> Errand:
        """A host that knows the way."""
        made = (lambda: context) if context else None
        return Errand(f"{scheme}://127.0.0.1:{self.counter.port}", said or self.secret, made, 10)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """Without TLS."""
    with ExitStack() as stack:
        made = Node(tmp_path)
        stack.callback(made.counter.stop)
        yield made


def test_what_is_not_here_is_fetched_once(node: Node, tmp_path: Path) -> None:
    """A file of some megabytes comes whole, lies in the cache, and is not asked for again."""
    data = bytes(range(256)) * 20_000
    sha256 = node.spool.keep([data])
    here = FetchedSpool(FileSpool(tmp_path / "cache", 0), node.errand(), SPOOL)
    assert here.path(sha256).read_bytes() == data
    node.counter.stop()
    assert here.read(sha256) == data
    node.counter = Counter(("127.0.0.1", 0), Rooms({}, tmp_path), node.secret, None)
    node.counter.start()


def test_what_is_kept_lies_on_the_node_too(node: Node, tmp_path: Path) -> None:
    """An object that a host has written is in the node's outbox under its digest when `keep` returns."""
    here = FetchedSpool(FileSpool(tmp_path / "cache", 0), node.errand(), OUTBOX)
    sha256 = here.keep([b"DICM", memoryview(b"the rest")])
    assert node.outbox.read(sha256) == b"DICMthe rest"


def test_a_taken_address_is_said(node: Node, tmp_path: Path) -> None:
    """work.listen on a port that another program has, and on an address of another machine: each says what to do."""
    rooms = Rooms({}, tmp_path)
    said = rf"work\.listen, 127\.0\.0\.1:{node.counter.port}: Address already in use\. .*is kept.*another work\.listen"
    with pytest.raises(CannotListen, match=said):
        Counter(("127.0.0.1", node.counter.port), rooms, node.secret, None)
    with pytest.raises(CannotListen, match=r"work\.listen, 192\.0\.2\.1:0: .*no such address"):
        Counter(("192.0.2.1", 0), rooms, node.secret, None)


def test_predictions_go_and_come(node: Node, tmp_path: Path) -> None:
    """What one host has inferred another one writes from; an older one of its own does not come before it."""
    answers = [Answer(prediction_of(ball((8, 9, 10)), stages), bundle_statement()) for stages in _STAGES]
    first, second = (_predictions(node, tmp_path / name) for name in ("first", "second"))
    assert second.load(KEY) is None
    for answer in answers:
        first.save(KEY, answer)
        loaded = second.load(KEY)
        assert loaded is not None
        assert loaded.prediction.stage_probabilities == answer.prediction.stage_probabilities
        assert np.array_equal(loaded.prediction.mask, answer.prediction.mask)
    assert PredictionFolder(node.folder / "work").load(KEY) is not None


_STAGES = ((0.1, 0.6, 0.2, 0.1), (0.7, 0.1, 0.1, 0.1))


def _predictions(node: Node, folder: Path) -> FetchedPredictions:
    return FetchedPredictions(PredictionFolder(folder), folder, node.errand())


def test_another_secret_opens_nothing(node: Node, tmp_path: Path) -> None:
    """Neither fetching nor leaving, and a host notices it before it begins any work."""
    stranger = node.errand(said=secret(tmp_path, "x" * 40))
    sha256 = node.spool.keep([b"a slice"])
    for deed in (
        stranger.hello,
        lambda: stranger.fetch(SPOOL, sha256, print),
        lambda: stranger.leave(OUTBOX, sha256, b"a slice"),
    ):
        with pytest.raises(FilesAway, match="answered 403"):
            deed()
    assert "FILES_AWAY" in stranger.unanswered()
    assert list(node.outbox.names()) == []


def test_who_answers_without_the_secret_is_not_believed(node: Node, tmp_path: Path) -> None:
    """A machine in the node's place cannot give a host anything, not even bytes that bear the right digest."""
    other = Node(tmp_path / "other")
    other.counter.stop()
    impostor = Counter(("127.0.0.1", 0), Rooms({SPOOL: node.spool}, tmp_path), _Agreeing(tmp_path), None)
    impostor.start()
    sha256 = node.spool.keep([b"a slice"])
    with pytest.raises(FilesAway, match="not the node's"):
        Errand(f"http://127.0.0.1:{impostor.port}", node.secret, None, 10).fetch(SPOOL, sha256, lambda _: None)
    impostor.stop()


class _Agreeing(Secret):
    """Takes every proof, and has none of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(secret_file(folder))

    def proves(self, proof: str, *said: str) -> bool:
        """Yes."""
        return True


def secret_file(folder: Path) -> Path:
    """Some other secret."""
    path = folder / "another"
    path.write_text("y" * 40)
    path.chmod(0o600)
    return path


def test_who_says_without_the_secret_that_there_is_nothing_is_not_believed(node: Node, tmp_path: Path) -> None:
    """A work that is not there fails its job for good; only the node may say so."""
    impostor = Counter(("127.0.0.1", 0), Rooms({SPOOL: node.spool}, tmp_path), _Agreeing(tmp_path), None)
    impostor.start()
    errand = Errand(f"http://127.0.0.1:{impostor.port}", node.secret, None, 10)
    with pytest.raises(FilesAway, match="not the node's"):
        errand.fetch(SPOOL, KEY, lambda _: None)
    with pytest.raises(NotFound):
        node.errand().fetch(SPOOL, KEY, lambda _: None)
    impostor.stop()


def test_a_cache_without_room_is_no_fault_of_the_work(node: Node, tmp_path: Path) -> None:
    """What cannot be laid down here waits until there is room; a job must not end for it."""
    _predictions(node, tmp_path / "first").save(KEY, Answer(prediction_of(ball((8, 9, 10))), bundle_statement()))
    with closing(SmallDisk(tmp_path / "cache", PAGE)) as disk:
        (disk.place / "full").write_bytes(bytes(PAGE))
        with pytest.raises(DiskLow):
            _predictions(node, tmp_path / "cache").load(KEY)


def test_bytes_that_have_changed_are_refused(node: Node, tmp_path: Path) -> None:
    """A file on the node that no longer has its digest is told, and nothing of it stays here."""
    sha256 = node.spool.keep([b"a slice"])
    node.spool.path(sha256).write_bytes(b"another")
    cache = FileSpool(tmp_path / "cache", 0)
    with pytest.raises(Unreadable, match="no longer has that digest"):
        FetchedSpool(cache, node.errand(), SPOOL).path(sha256)
    assert list(cache.names()) == []


def test_a_file_that_rotted_here_is_fetched_again(node: Node, tmp_path: Path) -> None:
    """The node's is the one that counts."""
    sha256, cache = node.outbox.keep([b"an object"]), FileSpool(tmp_path / "cache", 0)
    here = FetchedSpool(cache, node.errand(), OUTBOX)
    here.path(sha256).write_bytes(b"rotten")
    assert here.read(sha256) == b"an object"


def test_only_what_was_announced_is_kept(node: Node) -> None:
    """Bytes of another digest than their name, and anything meant for the spool, are not taken."""
    wrong = sha256_hex(b"something else")
    with pytest.raises(FilesAway, match="answered 422"):
        node.errand().leave(OUTBOX, wrong, b"an object")
    with pytest.raises(NotFound):
        node.errand().leave(SPOOL, sha256_hex(b"an object"), b"an object")
    assert list(node.outbox.names()) == list(node.spool.names()) == []


def test_what_breaks_off_leaves_nothing(node: Node) -> None:
    """A host that dies in the middle of leaving a file: no object, no part."""
    data = b"x" * 1000
    digest = sha256_hex(data)
    connection = http.client.HTTPConnection("127.0.0.1", node.counter.port, timeout=10)
    connection.putrequest("PUT", f"/outbox/{digest}")
    headers = {"X-NPC-Digest": digest, "X-NPC-Proof": node.secret.proof("PUT", f"/outbox/{digest}", digest)}
    for name, value in {**headers, "Content-Length": "1000"}.items():
        connection.putheader(name, value)
    connection.endheaders(data[:500])
    connection.close()
    assert not node.errand().unanswered()
    assert list(node.outbox.names()) == []
    wait_for(lambda: not list((node.folder / "outbox" / "incoming").iterdir()), 10)


@pytest.mark.parametrize("path", ["/", "/spool/../site.key", "/work/" + "g" * 64, "/etc/passwd", "/spool/" + "0" * 64])
def test_nothing_else_is_there(node: Node, path: str) -> None:
    """Whatever is asked for, with the right secret, is a digest in a place that is known, or not there."""
    digest = sha256_hex(b"")
    connection = http.client.HTTPConnection("127.0.0.1", node.counter.port, timeout=10)
    connection.request("GET", path, headers={"X-NPC-Proof": node.secret.proof("GET", path, digest)})
    assert connection.getresponse().status == 404
    connection.close()


def test_a_node_that_is_not_there_is_told(node: Node) -> None:
    """It may be there later: transient, and no fault of the work."""
    node.counter.stop()
    with pytest.raises(FilesAway) as caught:
        node.errand().hello()
    assert caught.value.transient
    node.counter = Counter(("127.0.0.1", 0), Rooms({}, node.folder), node.secret, None)
    node.counter.start()


def test_a_renewed_certificate_of_a_host_needs_no_restart(tmp_path: Path) -> None:
    """A host whose certificate has ended is not served; with the file replaced, its next request is."""
    ours = Authority(tmp_path / "ours")
    tls, lapsed = ours.settings(ours.sign("node")), ours.sign("host", days=-1)
    node = Node(tmp_path, lambda: server_context(tls))
    reach = {"host": "gpu-1", "node": f"https://127.0.0.1:{node.counter.port}", "secret": str(tmp_path / "secret-sss")}
    database = {"url": "postgresql://node@localhost/none"}
    view = {"node": {"home": tmp_path / "host"}, "database": database, "tls": ours.settings(lapsed), "work": reach}
    with closing(Station(Settings.model_validate(view))) as station:
        errand = station.errand()
        assert errand is not None
        assert errand.unanswered()
        ours.sign("host")
        assert not errand.unanswered()
    node.counter.stop()


def test_with_certificates_both_show_theirs(tmp_path: Path) -> None:
    """Mutual TLS: a host with a certificate is served, one without is not, nor one of another authority."""
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    tls = ours.settings(ours.sign("node"))
    node = Node(tmp_path, lambda: server_context(tls))
    node.errand("https", client_context(ours.settings(ours.sign("host")), (), [])).hello()
    bare = ssl.create_default_context(cafile=str(ours.trusted))
    for context in (bare, client_context(theirs.settings(theirs.sign("stranger")), (), [])):
        with pytest.raises(FilesAway):
            node.errand("https", context).hello()
    with pytest.raises(FilesAway):
        node.errand("http").hello()
    node.counter.stop()


@pytest.mark.parametrize(("text", "mode", "said"), [("short", 0o600, "has 5 characters"), ("s" * 40, 0o644, "chmod")])
def test_a_secret_must_be_one(tmp_path: Path, text: str, mode: int, said: str) -> None:
    """Long enough, and for its user's eyes alone."""
    path = tmp_path / "secret"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(ConfigFault, match=said):
        Secret(path)
