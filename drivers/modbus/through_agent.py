"""A line that a running agent holds, read through its control socket. Opens no port and knows nothing of the agent.

One JSON object a line each way, as everybody speaks to that socket; the command is the driver's own `registers`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from drivers.api import LinkError, MalformedError, RefusedError
from drivers.modbus.link import ExceptionAnswerError, SilentError
from drivers.modbus.planner import Request

MOST_ANSWER_BYTES = 256 * 1024
WITHIN_S = 60.0

_answers = msgspec.json.Decoder(dict[str, Any])


class AgentLine:
    """What survey and watch want of a link."""

    is_open = True

    def __init__(self, socket: str, driver: str) -> None:
        self._socket, self._driver = socket, driver

    async def open(self, timeout_s: float) -> None:
        """Nothing is opened: the agent has the line."""

    def close(self) -> None:
        """Nothing was opened."""

    async def read(self, unit: int, request: Request, timeout_s: float) -> bytes:
        """Return the register bytes of one read; raises as a link does."""
        arguments: dict[str, Any] = {
            "unit": unit,
            "space": request.space,
            "address": request.address,
            "count": request.count,
        }
        arguments["timeout_s"] = timeout_s
        told = await self._ask({"command": f"{self._driver}.registers", "arguments": arguments})
        match told:
            case {"hex": str(words)}:
                return bytes.fromhex(words)
            case {"exception": int(code)}:
                raise ExceptionAnswerError(code, request)
            case {"silent": str(why)}:
                raise SilentError(why)
            case {"malformed": str(why)}:
                raise MalformedError(why)
        raise LinkError(f"the agent at {self._socket} gave no answer to be read")

    async def _ask(self, question: dict[str, Any]) -> Any:
        try:
            async with asyncio.timeout(WITHIN_S):
                reader, writer = await asyncio.open_unix_connection(self._socket, limit=MOST_ANSWER_BYTES)
                try:
                    writer.write(msgspec.json.encode(question) + b"\n")
                    answer = _answers.decode(await reader.readline())
                finally:
                    writer.close()
        except (OSError, ValueError, msgspec.DecodeError) as error:  # TimeoutError is an OSError
            raise LinkError(f"no agent answers at {self._socket}: {error}") from error
        if not answer.get("ok"):
            raise RefusedError(str(answer.get("error")))
        return answer.get("result")
