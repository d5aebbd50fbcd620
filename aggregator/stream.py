"""One server-sent event stream to one browser. Knows nothing of what it carries."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.responses import Response

from aggregator.live import Listener, Live

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

HEARTBEAT_S = 15.0
SEND_WITHIN_S = 20.0
"""A browser that takes nothing for so long is let go; it connects again by itself."""
RETRY_MS = 2000


class LiveResponse(Response):
    """Send what a listener gets, with a heartbeat in silence, until either side has had enough."""

    media_type = "text/event-stream"

    def __init__(self, live: Live, listener: Listener) -> None:
        super().__init__(b"", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._live = live
        self._listener = listener

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with asyncio.TaskGroup() as tasks:
                watcher = tasks.create_task(self._watch(receive))
                with suppress(OSError, TimeoutError):
                    await self._pump(send)
                watcher.cancel()
        finally:
            self._live.leave(self._listener)

    async def _pump(self, send: Send) -> None:
        await _send(send, f"retry: {RETRY_MS}\n\n".encode(), more=True)
        while (message := await self._listener.next(HEARTBEAT_S)) is not None:
            name, data = message
            await _send(send, b"event: " + name.encode() + b"\ndata: " + data + b"\n\n", more=True)
        await _send(send, b"", more=False)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._listener.close()


async def _send(send: Send, body: bytes, *, more: bool) -> None:
    async with asyncio.timeout(SEND_WITHIN_S):
        await send({"type": "http.response.body", "body": body, "more_body": more})
