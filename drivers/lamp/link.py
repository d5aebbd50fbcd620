"""The lamp at the other end of a Modbus TCP connection. Knows registers, no levels; translates pymodbus' errors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException

from drivers.api import LinkError, RefusedError

logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)  # it prints every frame of a failure as an error

ANSWER_WITHIN_S = 2.0
_LATER = {5, 6}
"""Exception codes that mean "not now": acknowledge, busy."""


class LampLink:
    """One connection; opened at the first use, closed after any failure."""

    def __init__(self, host: str, port: int, unit: int) -> None:
        self._where = f"{host}:{port}"
        self._host, self._port, self._unit = host, port, unit
        self._client: AsyncModbusTcpClient | None = None

    async def write(self, address: int, values: Sequence[int]) -> None:
        """Write registers (FC 16); raises LinkError or RefusedError."""
        await self._ask(16, lambda client: client.write_registers(address, list(values), device_id=self._unit))

    async def read(self, address: int, count: int) -> list[int]:
        """Return input registers (FC 4); raises LinkError or RefusedError."""
        answer = await self._ask(
            4, lambda client: client.read_input_registers(address, count=count, device_id=self._unit)
        )
        registers: list[int] = list(answer.registers)
        if len(registers) != count:
            self.close()
            raise LinkError(f"{self._where}: {len(registers)} registers for {count}")
        return registers

    def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(OSError):
                client.close()

    async def _ask(self, function: int, call: Callable[[AsyncModbusTcpClient], Awaitable[Any]]) -> Any:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                answer = await call(await self._connected())
            _obey_cancellation()
        except (ModbusException, OSError, TimeoutError) as error:
            self.close()
            raise LinkError(f"{self._where}: no answer ({' '.join(str(error).split()) or 'timeout'})") from error
        except asyncio.CancelledError:
            self.close()  # an answer may still be under way
            raise
        if answer.isError():
            self.close()
            kind = LinkError if answer.exception_code in _LATER else RefusedError
            raise kind(f"{self._where}: exception {answer.exception_code} to function {function}")
        if answer.function_code != function:  # pymodbus takes any function code for an answer
            self.close()
            raise LinkError(f"{self._where}: function {answer.function_code} answers {function}")
        return answer

    async def _connected(self) -> AsyncModbusTcpClient:
        """Return a client that is connected; without retries, because a repeated write is decided above."""
        if self._client is not None and self._client.connected:
            return self._client
        self.close()
        client = AsyncModbusTcpClient(
            self._host, port=self._port, timeout=ANSWER_WITHIN_S, retries=0, reconnect_delay=0
        )
        self._client = client
        if not await client.connect():
            raise ConnectionError("connection refused")
        return client


def _obey_cancellation() -> None:
    """Raise a cancellation that got lost: before Python 3.12 asyncio.wait_for, inside pymodbus, may swallow one."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
