"""The Bluetooth adapter: one bleak scanner, watched. Knows no tag, no passage and no event of the gateway.

bleak is imported when a scanner starts, so that a house need not have it. A scanner that has gone deaf raises
nothing (bluetoothd restarted, dongle pulled), therefore two watches stand beside it: the system bus tells at once
when BlueZ or the adapter goes, and long silence restarts the scanner, which costs about a second of hearing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from drivers.api import ConfigError, LinkError

if TYPE_CHECKING:
    from bleak import BleakScanner
    from dbus_fast import Message
    from dbus_fast.aio import MessageBus

log = logging.getLogger(__name__)

Heard: TypeAlias = Callable[[Mapping[int, bytes], Mapping[str, bytes], int | None], None]

START_WITHIN_S = 15.0
STOP_WITHIN_S = 1.5
"""The agent stops within 5 s; a living bluetoothd answers in milliseconds."""
SILENCE_S = 60.0
USUAL_GAPS = 10
"""Restart after this many usual gaps of silence, and never before SILENCE_S."""
SILENCE_CEILING_S = 600.0
POWER_CYCLE_AFTER = 2
"""Starts that failed in a row before the adapter is switched off and on."""
UNKNOWN_RSSI = -127
"""bleak's value where BlueZ has none."""
FILTERS: dict[str, Any] = {"DuplicateData": True, "RSSI": -120}
"""Both are needed: without them BlueZ 5.88 reports an unchanging tag in 4 % of its packets, or with a stale RSSI."""

_BLUEZ = "org.bluez"
_ADAPTER = re.compile(r"hci[0-9]{1,3}")
_OBJECTS = "org.freedesktop.DBus.ObjectManager"
_PROPERTIES = "org.freedesktop.DBus.Properties"


def check_adapter(name: str) -> str:
    """Return an adapter's name; raises ConfigError when it cannot be one (it becomes part of a D-Bus path)."""
    if not _ADAPTER.fullmatch(name):
        raise ConfigError("adapter", "not an adapter's name", "write hci0; `bluetoothctl list` shows them", name)
    return name


class Silence:
    """Tell from the gaps between packets when silence has lasted too long. Real seconds, given by the caller."""

    def __init__(self, now_s: float) -> None:
        self._last_s = now_s
        self._usual_gap_s = 0.0

    def packet(self, now_s: float) -> None:
        """Take note of a packet."""
        self._usual_gap_s += 0.05 * (now_s - self._last_s - self._usual_gap_s)
        self._last_s = now_s

    def restarted(self, now_s: float) -> None:
        """Wait the whole time again."""
        self._last_s = now_s

    def too_long(self, now_s: float) -> bool:
        """Tell whether the scanner ought to be restarted."""
        limit_s = min(SILENCE_CEILING_S, max(SILENCE_S, USUAL_GAPS * self._usual_gap_s))
        return now_s - self._last_s > limit_s


class Scanner:
    """Hear every advertisement on one adapter; `heard` and `deaf` are called in the event loop, to return at once.

    `deaf` comes the moment the bus tells that nothing can be heard any more; `trouble` says so from then on.
    """

    def __init__(self, adapter: str, heard: Heard, deaf: Callable[[], None] = lambda: None) -> None:
        self._adapter = adapter
        self._heard = heard
        self._deaf = deaf
        self._scanner: Any = None
        self._bus: MessageBus | None = None
        self._lost: str | None = None
        self._failures = 0
        self._silence: Silence | None = None

    async def start(self) -> None:
        """Begin to listen; raises LinkError, or ConfigError where bleak is not installed."""
        try:
            await self._start()
        except (LinkError, ConfigError):
            self._failures += 1
            await self.stop()
            raise
        self._failures = 0

    async def stop(self) -> None:
        """End listening; never fails, because whatever went wrong is what made us stop."""
        scanner, self._scanner = self._scanner, None
        if scanner is not None:
            try:
                async with asyncio.timeout(STOP_WITHIN_S):
                    await scanner.stop()
            except Exception as error:  # noqa: BLE001  (a dead bluetoothd answers in many ways)
                log.debug("the scanner did not stop in order: %r", error)
        bus, self._bus = self._bus, None
        if bus is not None:
            bus.disconnect()

    def trouble(self) -> str | None:
        """Return why the scanner no longer hears, or None; what the bus said goes before mere silence."""
        if self._lost is not None:
            return self._lost
        if self._bus is None or not self._bus.connected:
            return "the system bus is gone"
        if self._silence is not None and self._silence.too_long(asyncio.get_running_loop().time()):
            return "silence"
        return None

    async def _start(self) -> None:
        bleak, dbus_errors = _libraries()
        try:
            async with asyncio.timeout(START_WITHIN_S):
                await self._watch_bus()
                if self._failures >= POWER_CYCLE_AFTER:
                    await self._power_cycle()
                scanner = bleak.BleakScanner(
                    self._packet,
                    scanning_mode="active",
                    bluez={"adapter": self._adapter, "filters": FILTERS},
                )
                self._silence = Silence(asyncio.get_running_loop().time())
                await _start_or_undo(scanner)
                self._scanner = scanner
        except TimeoutError as error:
            raise LinkError(f"{self._adapter}: Bluetooth did not answer within {START_WITHIN_S:g} s") from error
        except (bleak.BleakError, dbus_errors.DBusFastError, OSError, EOFError, AssertionError) as error:
            raise LinkError(f"{self._adapter}: {_one_line(error)}") from error

    def _packet(self, _device: Any, advert: Any) -> None:
        """Take bleak's callback; runs in the D-Bus read loop, so it does the least it can."""
        if not (advert.manufacturer_data or advert.service_data):
            return  # an empty advertisement says nothing, not even that the scanner is well
        if self._silence is not None:
            self._silence.packet(asyncio.get_running_loop().time())
        rssi = advert.rssi
        self._heard(advert.manufacturer_data, advert.service_data, None if rssi == UNKNOWN_RSSI else rssi)

    async def _watch_bus(self) -> None:
        """Open a connection of our own that tells when BlueZ or the adapter goes; bleak does not look."""
        from dbus_fast import BusType, Message  # noqa: PLC0415  (a house has no Bluetooth)
        from dbus_fast.aio import MessageBus  # noqa: PLC0415

        self._lost = None
        bus = self._bus = MessageBus(bus_type=BusType.SYSTEM)
        await bus.connect()
        bus.add_message_handler(self._told)
        path = f"/org/bluez/{self._adapter}"
        for rule in (
            f"type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='{_BLUEZ}'",
            f"type='signal',sender='{_BLUEZ}',interface='{_PROPERTIES}',member='PropertiesChanged',path='{path}'",
            f"type='signal',sender='{_BLUEZ}',interface='{_OBJECTS}',member='InterfacesRemoved',arg0path='{path}'",
        ):
            await bus.call(
                Message(
                    destination="org.freedesktop.DBus",
                    path="/org/freedesktop/DBus",
                    interface="org.freedesktop.DBus",
                    member="AddMatch",
                    signature="s",
                    body=[rule],
                )
            )

    def _told(self, message: Message) -> None:
        if (lost := self._loss_in(message)) is not None:
            self._lost = lost
            self._deaf()

    def _loss_in(self, message: Message) -> str | None:
        """Return what a signal says is lost, or None."""
        body = message.body
        if message.member == "NameOwnerChanged" and body[:1] == [_BLUEZ]:
            return "bluetoothd has stopped" if not body[2] else "bluetoothd was restarted"
        if message.member == "InterfacesRemoved" and body[:1] == [f"/org/bluez/{self._adapter}"]:
            return f"{self._adapter} was unplugged"
        if message.member == "PropertiesChanged" and message.path == f"/org/bluez/{self._adapter}":
            powered = body[1].get("Powered") if len(body) > 1 else None
            if powered is not None and powered.value is False:
                return f"{self._adapter} was switched off"
        return None

    async def _power_cycle(self) -> None:
        """Switch the adapter off and on, which clears what a restart of the scanner does not."""
        from dbus_fast import Message, Variant  # noqa: PLC0415

        if self._bus is None:
            return
        for power in (False, True):
            await self._bus.call(
                Message(
                    destination=_BLUEZ,
                    path=f"/org/bluez/{self._adapter}",
                    interface=_PROPERTIES,
                    member="Set",
                    signature="ssv",
                    body=["org.bluez.Adapter1", "Powered", Variant("b", power)],
                )
            )
        self._lost = None  # the switching off was our own


def _libraries() -> tuple[Any, Any]:
    try:
        import bleak  # noqa: PLC0415  (imported late: a house has no Bluetooth)
        import dbus_fast.errors  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("driver", "ble_tags needs bleak", "install the extra `ble`") from error
    return bleak, dbus_fast.errors


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


async def _start_or_undo(scanner: BleakScanner) -> None:
    """Start a scanner; when cancelled on the way, wait shortly for BlueZ's answer and stop it again.

    A discovery that BlueZ has begun and nobody ends refuses every later scanner of this process as "in progress".
    """
    starting = asyncio.ensure_future(scanner.start())  # must outlive our cancellation, shortly
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(STOP_WITHIN_S):
                await starting
                await scanner.stop()
        raise
    finally:
        starting.cancel()
