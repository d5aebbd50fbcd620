"""A read whose refusal is believed: a busy or garbled unit is asked again. Knows no map and plans nothing."""

from __future__ import annotations

from collections.abc import Collection

from drivers.api import MalformedError
from drivers.modbus.link import ExceptionAnswerError, Reads, UnreachedError
from drivers.modbus.planner import Request

ASKED_AT_MOST = 3


async def read_or_refused(
    link: Reads, unit: int, request: Request, timeout_s: float, absent_codes: Collection[int] = ()
) -> bytes | None:
    """Return a read's bytes, None when it is refused for good: by exception 1, 2, 3 or one of `absent_codes`.

    Raises the last error of a unit that was busy or garbled each time; SilentError and LinkError at once.
    """
    asked = 1
    while True:
        try:
            return await link.read(unit, request, timeout_s)
        except (ExceptionAnswerError, UnreachedError) as error:
            if error.code in absent_codes or (isinstance(error, ExceptionAnswerError) and error.final):
                return None
            if isinstance(error, UnreachedError) or asked == ASKED_AT_MOST:
                raise
        except MalformedError:
            if asked == ASKED_AT_MOST:
                raise
        asked += 1
