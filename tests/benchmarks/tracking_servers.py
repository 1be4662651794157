"""A real MLflow server that can be killed, and a server before it that fails as it is told."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import aiohttp
from aiohttp import web

from paretune.tracking.ui_server import LOG, _server, _wait_until_it_answers
from tests_support import free_port

WELL = "well"
HOUR = 3600.0


class MlflowServer:
    """MLflow's own server on an output folder.

    Args:
        runs: folder with the database.
    """

    def __init__(self, runs: Path) -> None:
        self._runs, self._port, self._stack = runs, free_port(), ExitStack()
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = self._stack.enter_context(_server(self._runs, self._port))
        _wait_until_it_answers(self._process, self._port, self._runs / LOG)

    def kill(self) -> None:
        """Kill it and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """End it."""
        self._stack.close()


@contextmanager
def mlflow_server(runs: Path) -> Iterator[MlflowServer]:
    """Yield a running server, which ends with the block."""
    server = MlflowServer(runs)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class FaultyServer:
    """Passes requests on to a server, unless it fails as ``fault`` says.

    Args:
        behind: address of the server; None if there is none.
        share: of the requests that fail.
    """

    def __init__(self, behind: str | None, share: float = 1.0) -> None:
        self.fault, self._behind, self._share, self._dice = WELL, behind, share, random.Random(0)
        self._loop, self._port = asyncio.new_event_loop(), free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self.asked = 0
        self._held: set[asyncio.Task[object]] = set()

    async def begin(self) -> None:
        """Listen."""
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, shutdown_timeout=0.1).start()
        self._session = aiohttp.ClientSession(auto_decompress=False)

    async def end(self) -> None:
        """Close everything."""
        for task in self._held:
            task.cancel()
        await self._session.close()
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        fault = self.fault if self._dice.random() < self._share else WELL
        if fault in ("500", "429"):
            await request.read()
            return web.Response(status=int(fault), headers={"Retry-After": str(int(HOUR))})
        if fault == "silent":
            task = asyncio.current_task()
            assert task is not None
            self._held.add(task)
            await asyncio.sleep(HOUR)
        if fault == "slow":
            await asyncio.sleep(1.5)
        if fault != "reset":
            answer = await self._passed_on(request)
        if fault in ("reset", "unanswered"):
            assert request.transport is not None
            request.transport.abort()
            return web.Response()  # which nobody gets
        return answer

    async def _passed_on(self, request: web.Request) -> web.Response:
        if self._behind is None:
            return web.Response(status=503)
        headers = {name: text for name, text in request.headers.items() if name.lower() not in HOPS}
        body = await request.read()
        async with self._session.request(
            request.method, self._behind + request.path_qs, data=body, headers=headers
        ) as reply:
            kept = {name: text for name, text in reply.headers.items() if name.lower() not in HOPS}
            return web.Response(status=reply.status, body=await reply.read(), headers=kept)

    @contextmanager
    def listening(self) -> Iterator[FaultyServer]:
        """Answer requests in a thread during the block."""
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        asyncio.run_coroutine_threadsafe(self.begin(), self._loop).result(30)
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self.end(), self._loop).result(30)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(30)


HOPS = {"host", "content-length", "transfer-encoding", "connection"}
"""Headers of one connection."""
