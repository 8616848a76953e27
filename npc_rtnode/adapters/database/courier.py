"""Takes procrastinate's entries to the stages of this host: one lane a resource, one piece of work a lane at a time.

An entry that cannot be carried out is deleted with it: what still waits is submitted again by the carrier's `recover`.
The entries come in threads of procrastinate's; the loop that fetches them lives in one of its own, and begins anew
whenever the database was away.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import procrastinate
import psycopg
import psycopg_pool
from procrastinate.exceptions import ProcrastinateException
from sqlalchemy.engine import make_url

from npc_rtnode import log
from npc_rtnode.adapters.database.engine import network_limits
from npc_rtnode.adapters.database.procrastinated import TASK

logger = log.get(__name__)
POLL_S: Final = 2.0
"""How often an entry is looked for that was not announced: one whose time has come."""
AGAIN_S: Final = 2.0
PATIENCE_S: Final = 10.0
"""For a connection; the pool's own pauses between two tries double up to minutes, and begin anew after so long."""
_OUT_OF_TOUCH = (ProcrastinateException, psycopg.Error, psycopg_pool.PoolTimeout, OSError)

Lanes = Mapping[str, Callable[[int], object]]
"""By resource: who does the work of this number, if it is still to be done."""
LOOK_S: Final = 5.0
"""How often a lane asks whether its work is begun here."""


class Courier:
    """Started and stopped once."""

    def __init__(
        self, url: str, lanes: Lanes, beat_s: float, silent_s: float, begins: Callable[[str], bool] = lambda _: True
    ) -> None:
        """`begins`: whether work of a resource is begun here now; asked every few seconds, from other threads."""
        self._conninfo = _conninfo(url)
        self._begins = begins
        self._lanes = lanes
        self._beat_s, self._silent_s = beat_s, silent_s
        self._stopping = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._all: asyncio.Task[Any] | None = None
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)

    def start(self) -> None:
        """Begin to fetch."""
        self._thread.start()

    def stop(self) -> None:
        """Fetch nothing more; waits for what is under way."""
        self._stopping.set()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel)
        self._thread.join()

    def _cancel(self) -> None:
        if self._all is not None:
            self._all.cancel()

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            try:
                while not self._stopping.is_set():
                    self._once(runner)
            finally:
                self._loop = None
                if not self._stopping.is_set():  # a fault of ours: a worker that fetches nothing must not stay up
                    logger.error("the courier ended; its role ends too, and is started again")
                    os.kill(os.getpid(), signal.SIGTERM)

    def _once(self, runner: asyncio.Runner) -> None:
        try:
            runner.run(self._fetch())
        except* asyncio.CancelledError:
            logger.debug("the courier was called back")
        except* _OUT_OF_TOUCH as errors:
            names = sorted({type(error).__name__ for error in errors.exceptions})
            logger.warning("out of touch with the carrier", because=", ".join(names))
            self._stopping.wait(AGAIN_S)

    async def _fetch(self) -> None:
        most = 2 * len(self._lanes) + 2  # each lane listens and fetches, works and asks whether it is begun
        connector = procrastinate.PsycopgConnector(
            conninfo=self._conninfo, min_size=1, max_size=most, timeout=PATIENCE_S, reconnect_timeout=PATIENCE_S
        )
        app = procrastinate.App(connector=connector)
        app.task(name=TASK, pass_context=True)(self._carry)
        threads = ThreadPoolExecutor(most, thread_name_prefix="lane")  # asyncio's own has four more than processors
        asyncio.get_running_loop().set_default_executor(threads)
        self._all = asyncio.current_task()
        if self._stopping.is_set():  # told so before there was anything to call back
            return
        async with app.open_async(), asyncio.TaskGroup() as lanes:
            for resource in self._lanes:
                lanes.create_task(self._lane(app, resource))

    async def _lane(self, app: procrastinate.App, resource: str) -> None:
        """By worker after worker: one ends when its server is away, without a word where only a heartbeat failed.

        No other lane is called back for it: that would wait for the longest work under way.
        """
        while True:
            while not await self._is_begun(resource):
                await asyncio.sleep(LOOK_S)
            because = "it ended by itself"
            try:
                if await self._fetched(app, resource):
                    continue
            except _OUT_OF_TOUCH as error:
                because = type(error).__name__
            logger.warning("out of touch with the carrier", resource=resource, because=because)
            await asyncio.sleep(AGAIN_S)

    async def _fetched(self, app: procrastinate.App, resource: str) -> bool:
        """By one worker, until it ends (False) or nothing more is begun here, which calls it back.

        What is fetched and not begun would be lost for a while to the hosts that would begin it.
        """
        worker = asyncio.create_task(self._worker(app, resource))
        try:
            while await self._is_begun(resource):
                if (await asyncio.wait({worker}, timeout=LOOK_S))[0]:
                    await worker  # with its error
                    return False
            return True
        finally:
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)  # what it has under way

    async def _is_begun(self, resource: str) -> bool:
        return await asyncio.to_thread(self._begins, resource)

    async def _worker(self, app: procrastinate.App, resource: str) -> None:
        await app.run_worker_async(
            queues=[resource],
            name=resource,
            concurrency=1,
            fetch_job_polling_interval=POLL_S,
            delete_jobs="always",
            install_signal_handlers=False,
            update_heartbeat_interval=self._beat_s,
            stalled_worker_timeout=self._silent_s,
        )

    def _carry(self, context: procrastinate.JobContext, work: str) -> None:
        if not self._stopping.is_set():
            self._lanes[str(context.job.queue)](int(work.split()[1]))


def _conninfo(url: str) -> str:
    """For libpq itself; a server that has vanished without a word is noticed as early as by the ledger's engine."""
    limits = {name: str(limit) for name, limit in network_limits().items()}
    server = make_url(url).set(drivername="postgresql").update_query_dict(limits)
    return server.render_as_string(hide_password=False)
