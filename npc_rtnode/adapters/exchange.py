"""Files between the node and its worker hosts: by their digest, checked on arrival, signed with a secret both have.

The node answers GET /<place>/<name> and takes PUT /<place>/<name>; the places are `spool`, `outbox` and `work`. In the
first two a name is the SHA-256 of the bytes, in the third a work key. A request is signed over its method, its path and
the digest of what it brings, an answer over the path and the digest of what it brings: whoever has not the secret can
neither fetch nor leave anything, nor answer in the node's name. With TLS nobody else hears it either (ADR 0022).
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import re
import secrets
import shutil
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import urlsplit

from npc_rtnode import log
from npc_rtnode.domain.prediction import Answer
from npc_rtnode.domain.retry import describe
from npc_rtnode.errors import ConfigFault, DiskLow, FilesAway, NodeError, NotFound, Unreadable
from npc_rtnode.faults import disk_faults, listening_faults
from npc_rtnode.ports import Part, PredictionStore, Spool

logger = log.get(__name__)
SPOOL, OUTBOX, WORK = "spool", "outbox", "work"
LEAST_SECRET: Final = 32
_PATH: Final = re.compile(r"/(spool|outbox|work)/([0-9a-f]{64})")
_HELLO: Final = "/hello"
_DIGEST, _PROOF = "X-NPC-Digest", "X-NPC-Proof"
_NOTHING: Final = hashlib.sha256(b"").hexdigest()
_BLOCK: Final = 1 << 18
_MOST: Final = 4 << 30
"""No file of ours is larger; a longer body is refused before it is read."""


class Secret:
    """What node and hosts share."""

    def __init__(self, path: Path) -> None:
        """Read from a file that its user alone can read; ConfigFault else."""
        try:
            text, mode = path.read_text("ascii").strip(), path.stat().st_mode
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigFault(f"work.secret {path}: {type(error).__name__}") from None
        if mode & 0o077:
            raise ConfigFault(f"work.secret {path} can be read by others: chmod 600")
        if len(text) < LEAST_SECRET:
            raise ConfigFault(f"work.secret {path} has {len(text)} characters, at least {LEAST_SECRET} are wanted")
        self._key = text.encode()

    def proof(self, *said: str) -> str:
        """HMAC-SHA-256 over these, in order."""
        return hmac.new(self._key, "\n".join(said).encode(), hashlib.sha256).hexdigest()

    def proves(self, proof: str, *said: str) -> bool:
        """Whether whoever made this proof of these has the secret."""
        return hmac.compare_digest(proof.encode(), self.proof(*said).encode())


# --- the node's side --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rooms:
    """What lies where on the node: two spools, and the folder of predictions."""

    spools: Mapping[str, Spool]
    predictions: Path

    def path(self, place: str, name: str) -> Path:
        """Where the file lies."""
        return self.predictions / f"{name}.npz" if place == WORK else self.spools[place].path(name)

    @contextmanager
    def taking(self, place: str, name: str) -> Iterator[Taken]:
        """Room for a file that comes; it counts only if its digest is the one announced."""
        spool = self.spools[OUTBOX if place == WORK else place]
        part = spool.begin()
        try:
            yield Taken(part, place, name, self)
        finally:
            part.discard()


@dataclass
class Taken:
    """A file on its way in."""

    part: Part
    place: str
    name: str
    rooms: Rooms

    def keep(self, announced: str) -> bool:
        """Durable under its name, if these are the bytes that were announced."""
        if self.place == WORK:
            return self._keep_prediction(announced)
        with self.part.reading() as data:
            whole = hashlib.sha256(data).hexdigest() == announced == self.name
        return whole and self.part.keep() == self.name

    def _keep_prediction(self, announced: str) -> bool:
        """It carries its own digest besides, and is put in the place of another of the same work (pipeline/infer)."""
        with self.part.reading() as data:
            if hashlib.sha256(data).hexdigest() != announced:
                return False
            self.rooms.predictions.mkdir(parents=True, exist_ok=True, mode=0o700)
            beside = self.rooms.predictions / f"{self.name}.{threading.get_ident()}.part"
            with beside.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        beside.replace(self.rooms.path(WORK, self.name))
        folder = os.open(self.rooms.predictions, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        return True


class Counter:
    """The node's desk for files, in threads of its own."""

    def __init__(
        self, address: tuple[str, int], rooms: Rooms, secret: Secret, context: Callable[[], ssl.SSLContext] | None
    ) -> None:
        """Bound at once; raises CannotListen when it cannot be."""
        handler = type("Handler", (_Handler,), {"rooms": rooms, "secret": secret})
        with listening_faults("work.listen", *address):
            self._server = _Server(address, handler, context)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="files", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """No more answers."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], handler: type[_Handler], context: Callable[[], ssl.SSLContext] | None
    ) -> None:
        self._context = context
        super().__init__(address, handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """TLS in the caller's own thread, so that one who dawdles holds up nobody."""
        request.settimeout(30)
        if self._context is None:
            super().finish_request(request, client_address)
            return
        with self._context().wrap_socket(request, server_side=True, do_handshake_on_connect=False) as secured:
            secured.do_handshake()
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the library's
        """A caller that went, or shows no certificate that we trust: its own trouble, and no name of it is told."""
        logger.info("a caller for files was lost")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "npc-rtnode", ""
    rooms: Rooms
    secret: Secret

    def do_GET(self) -> None:
        """A file, with its digest and the proof that it is ours."""
        if not self._admitted(_NOTHING):
            return
        if self.path == _HELLO:
            self._answer(200, b"")
        elif known := _PATH.fullmatch(self.path):
            self._send(self.rooms.path(*known.groups()))
        else:
            self._answer(404, b"")

    def do_PUT(self) -> None:
        """Take a file."""
        digest, known = self.headers.get(_DIGEST, ""), _PATH.fullmatch(self.path)
        if not self._admitted(digest):
            return
        size = int(self.headers.get("Content-Length", "-1"))
        place, name = known.groups() if known else (SPOOL, "")
        if place == SPOOL or not 0 < size <= _MOST:  # what was received is nobody's to leave
            self._refuse(404 if place == SPOOL else 413)
            return
        try:
            with self.rooms.taking(place, name) as taken:
                self._receive(taken.part, size)
                self._answer(200 if taken.keep(digest) else 422, b"")
        except DiskLow:
            self._refuse(507)

    def _receive(self, part: Part, size: int) -> None:
        while size > 0:
            block = self.rfile.read(min(size, _BLOCK))
            if not block:
                raise ConnectionError("it ended too early")
            part.write(block)
            size -= len(block)

    def _admitted(self, digest: str) -> bool:
        if self.secret.proves(self.headers.get(_PROOF, ""), self.command, self.path, digest):
            return True
        self._refuse(403)
        return False

    def _send(self, path: Path) -> None:
        try:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                size = stream.tell()
                stream.seek(0)
                self._head(200, digest, size)
                shutil.copyfileobj(stream, self.wfile, _BLOCK)
        except FileNotFoundError:
            self._answer(404, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self._head(status, hashlib.sha256(body).hexdigest(), len(body))
        self.wfile.write(body)

    def _refuse(self, status: int) -> None:
        """Without reading what may still come."""
        self.close_connection = True
        self._answer(status, b"")

    def _head(self, status: int, digest: str, size: int) -> None:
        self.send_response(status)
        self.send_header(_DIGEST, digest)
        self.send_header(_PROOF, self.secret.proof("answer", str(status), self.path, digest))
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


# --- a worker host's side ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Errand:
    """Fetches from the node and leaves there. Raises FilesAway, or NotFound where the node has no such file."""

    url: str
    secret: Secret
    context: Callable[[], ssl.SSLContext] | None
    timeout_s: float = 30.0

    def hello(self) -> None:
        """Whether the node is there and has the same secret."""
        self._ask("GET", _HELLO, b"", _NOTHING, lambda _stream: None)

    def unanswered(self) -> str:
        """The same as a question: why not, or nothing; certificates of ours that cannot be read are a reason too."""
        try:
            self.hello()
        except NodeError as error:
            return describe(error)
        return ""

    def fetch(self, place: str, name: str, write: Callable[[bytes], object]) -> str:
        """The file's bytes, block by block; returns the digest that they have, and were proven to have."""

        def take(stream: IO[bytes]) -> str:
            digest = hashlib.sha256()
            while block := stream.read(_BLOCK):
                digest.update(block)
                write(block)
            return digest.hexdigest()

        return self._ask("GET", f"/{place}/{name}", b"", _NOTHING, take)

    def leave(self, place: str, name: str, data: bytes) -> None:
        """Durable on the node when this returns."""
        self._ask("PUT", f"/{place}/{name}", data, hashlib.sha256(data).hexdigest(), lambda _stream: None)

    def _ask(self, verb: str, path: str, body: bytes, digest: str, take: Callable[[Any], str | None]) -> str:
        headers = {_DIGEST: digest, _PROOF: self.secret.proof(verb, path, digest)}
        try:
            connection = self._connection()
            try:
                connection.request(verb, path, body or None, headers)
                answer = connection.getresponse()
                if answer.status != 200:
                    raise self._refusal(answer, path)
                return self._believed(answer, path, take(answer))
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            raise FilesAway(f"{verb} {path.split('/')[1]}: {type(error).__name__}.") from error

    def _connection(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "https":
            context = self.context() if self.context else None
            return http.client.HTTPSConnection(host, port, timeout=self.timeout_s, context=context)
        return http.client.HTTPConnection(host, port, timeout=self.timeout_s)

    def _believed(self, answer: http.client.HTTPResponse, path: str, came: str | None) -> str:
        """The digest, if the node itself said that it is this one."""
        digest = self._announced(answer, path)
        if came is not None and came != digest:
            raise FilesAway("What came is not what was announced.")
        return digest

    def _announced(self, answer: http.client.HTTPResponse, path: str) -> str:
        digest = answer.headers.get(_DIGEST, "")
        if not self.secret.proves(answer.headers.get(_PROOF, ""), "answer", str(answer.status), path, digest):
            raise FilesAway("The answer is not the node's.")
        return digest

    def _refusal(self, answer: http.client.HTTPResponse, path: str) -> NodeError:
        """That there is no such file ends a job: only the node itself may say so."""
        if answer.status != 404:
            return FilesAway(f"The node answered {answer.status}.")
        self._announced(answer, path)
        return NotFound(f"The node does not hold {path.rsplit('/', 1)[-1]}.")


class FetchedSpool:
    """Fulfils ports.Spool: what is not here is fetched, what is kept is left on the node too."""

    def __init__(self, cache: Spool, errand: Errand, place: str) -> None:
        self._cache = cache
        self._errand = errand
        self._place = place

    def keep(self, data: Sequence[bytes | memoryview]) -> str:
        """Here and on the node."""
        sha256 = self._cache.keep(data)
        self._errand.leave(self._place, sha256, b"".join(data))
        return sha256

    def begin(self) -> Part:
        """Only the node receives."""
        raise FilesAway("A worker host receives nothing.")

    def path(self, sha256: str) -> Path:
        """Where those bytes lie here by now; what is used is not about to be forgotten."""
        path = self._cache.path(sha256)
        try:
            os.utime(path)
        except FileNotFoundError:
            self._fetch(sha256)
        return path

    def read(self, sha256: str) -> bytes:
        """The bytes, their digest checked."""
        self.path(sha256)
        try:
            return self._cache.read(sha256)
        except Unreadable:  # rotten here: the node has it
            self._fetch(sha256)
            return self._cache.read(sha256)

    def _fetch(self, sha256: str) -> None:
        part = self._cache.begin()
        try:
            came = self._errand.fetch(self._place, sha256, part.write)
            if came != sha256:  # the node itself said so: its bytes have changed
                raise Unreadable(f"The node's {self._place} object {sha256} no longer has that digest.")
            part.keep()
        finally:
            part.discard()


class FetchedPredictions:
    """Fulfils ports.PredictionStore: the node's is the one that counts."""

    def __init__(self, cache: PredictionStore, folder: Path, errand: Errand) -> None:
        self._cache = cache
        self._folder = folder
        self._errand = errand

    def save(self, work_key: str, answer: Answer) -> None:
        """Here first, then on the node."""
        self._cache.save(work_key, answer)
        self._errand.leave(WORK, work_key, (self._folder / f"{work_key}.npz").read_bytes())

    def load(self, work_key: str) -> Answer | None:
        """As the node has it."""
        blocks: list[bytes] = []
        try:
            self._errand.fetch(WORK, work_key, blocks.append)
        except NotFound:
            return None
        with disk_faults("cache"):
            self._lay(work_key, b"".join(blocks))
        return self._cache.load(work_key)

    def _lay(self, work_key: str, data: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = self._folder / f"{work_key}.{secrets.token_hex(8)}.part"
        try:
            part.write_bytes(data)
            part.replace(self._folder / f"{work_key}.npz")
        finally:
            part.unlink(missing_ok=True)
