"""The writable side of a simulated hybrid inverter: revert timer, flash, refusals, a second master, restarts.

Written down from the maker's document like the inverter itself; shares no code with the driver. Knows no socket: it
answers requests that concern its registers and leaves all others to the unit.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from simulators.house import Balance

READ_HOLDING, WRITE_ONE, WRITE_MANY = 3, 6, 16
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE, FAILURE = 1, 2, 3, 4
WS_PER_WH = 3_600


@dataclass(frozen=True, slots=True)
class Register:
    """One value: writable with the numbers `takes`, or only read; `stored` ones survive a restart."""

    name: str
    address: int
    words: int
    initial: int
    takes: Sequence[int] = ()
    stored: bool = False


@dataclass(frozen=True, slots=True)
class Timer:
    """Writing `command` other than 0 starts it for `minutes`; when it is over the device sets `command` to 0."""

    command: str
    minutes: str


class ControlRegisters:
    """The registers of one unit that can be written, and what became of them."""

    def __init__(self, registers: Sequence[Register], timer: Timer, now_ms: Callable[[], int]) -> None:
        self._registers = {register.name: register for register in registers}
        self._timer = timer
        self._now_ms = now_ms
        self._expires_ms: int | None = None
        self.bits = {register.name: register.initial for register in registers}
        self.writes: Counter[str] = Counter()
        """Writes carried out by name, and of them `stored` and `ram`."""
        self.order: list[tuple[str, int]] = []
        """Every write carried out, (name, bits), oldest first."""
        self.refusals: dict[str, list[int]] = {}
        """Exception codes for the next writes of a register; the last one stays when it is negative."""
        self.deaf: set[str] = set()
        """Registers that take a write and answer it, but keep their value."""
        self.on_write: Callable[[str], None] | None = None
        """Called after each write that was carried out, before its answer leaves."""
        self.mute_after_write = False
        """Carries writes out and never answers them."""
        self.starts = 0
        self._charged_ws = 0
        self._last_ms = now_ms()

    def __getitem__(self, name: str) -> int:
        self._tick()
        return self.bits[name]

    @property
    def is_normal(self) -> bool:
        """Whether nothing that commands the battery differs from what it was."""
        self._tick()
        passive = {self._timer.minutes, "started_at", "forced_goal", "forced_charge_w", "forced_discharge_w"}
        return all(self.bits[name] == one.initial for name, one in self._registers.items() if name not in passive)

    def changed(self) -> dict[str, int]:
        """Return what differs from the beginning."""
        self._tick()
        return {
            name: bits
            for name, bits in self.bits.items()
            if bits != self._registers[name].initial and name != "started_at"
        }

    def foreign(self, name: str, bits: int) -> None:
        """Another master, such as the maker's cloud, sets a register."""
        self._set(name, bits)

    def restart(self) -> None:
        """Lose all that is not stored, and show another start time."""
        self.starts += 1
        self._expires_ms = None
        self.bits |= {name: one.initial for name, one in self._registers.items() if not one.stored}
        if "started_at" in self.bits:
            self.bits["started_at"] = self._registers["started_at"].initial + self.starts

    def answer(self, pdu: bytes) -> bytes | None:
        """Return the answer to a request about these registers; None for any other, b"" for none at all."""
        self._tick()
        if pdu[0] in {WRITE_ONE, WRITE_MANY}:
            return self._written(pdu)
        if pdu[0] != READ_HOLDING or len(pdu) != 5:
            return None
        first, count = struct.unpack(">HH", pdu[1:])
        words = self._words()
        if not all(address in words for address in range(first, first + count)) or not count:
            return None
        return bytes((READ_HOLDING, 2 * count)) + b"".join(
            words[address].to_bytes(2, "big") for address in range(first, first + count)
        )

    def overlay(self, balance: Balance) -> Balance:
        """Return the house's balance with the battery doing what it was told."""
        self._tick()
        command = self.bits[self._timer.command]
        forced_w = -self.bits["forced_charge_w"] if command == 1 else self.bits["forced_discharge_w"]
        elapsed_s = max(balance.unix_ms - self._last_ms, 0) // 1000
        if command:
            self._charged_ws += (balance.battery_w - forced_w) * elapsed_s
        self._last_ms = max(balance.unix_ms, self._last_ms)
        capacity_ws = balance.battery_wh * WS_PER_WH * 1000 // balance.soc_permille if balance.soc_permille else 0
        soc = balance.soc_permille + (self._charged_ws * 1000 // capacity_ws if capacity_ws else 0)
        battery_w = forced_w if command else balance.battery_w
        return replace(
            balance,
            battery_w=battery_w,
            grid_w=balance.load_w - balance.pv_w - battery_w,
            soc_permille=max(0, min(1000, soc)),
        )

    def _words(self) -> dict[int, int]:
        return {
            one.address + index: self.bits[name] >> 16 * (one.words - 1 - index) & 0xFFFF
            for name, one in self._registers.items()
            for index in range(one.words)
        }

    def _written(self, pdu: bytes) -> bytes:
        function = pdu[0]
        if function == WRITE_ONE:  # as field reports say of this maker: exception 1 for function 6
            return bytes((function | 0x80, ILLEGAL_FUNCTION))
        if len(pdu) < 6 or len(pdu) != 6 + pdu[5]:
            return bytes((function | 0x80, ILLEGAL_VALUE))
        first, count = struct.unpack(">HH", pdu[1:5])
        one = next((one for one in self._registers.values() if (one.address, one.words) == (first, count)), None)
        if one is None:
            return bytes((function | 0x80, ILLEGAL_ADDRESS))
        if code := self._refusal(one.name):
            return bytes((function | 0x80, code))
        bits = int.from_bytes(pdu[6:], "big")
        if bits not in one.takes:
            return bytes((function | 0x80, ILLEGAL_VALUE))
        self.writes.update((one.name, "stored" if one.stored else "ram"))
        self.order.append((one.name, bits))
        if one.name not in self.deaf:
            self._set(one.name, bits)
        if self.on_write is not None:
            self.on_write(one.name)
        return b"" if self.mute_after_write else pdu[:5]

    def _refusal(self, name: str) -> int:
        codes = self.refusals.get(name, [])
        if not codes:
            return 0
        return -codes[0] if codes[0] < 0 else codes.pop(0)

    def _set(self, name: str, bits: int) -> None:
        self.bits[name] = bits
        if name == self._timer.command:
            minutes = self.bits[self._timer.minutes]
            self._expires_ms = self._now_ms() + minutes * 60_000 if bits else None

    def _tick(self) -> None:
        if self._expires_ms is not None and self._now_ms() >= self._expires_ms:
            self.bits[self._timer.command] = 0
            self._expires_ms = None


def huawei_control(now_ms: Callable[[], int], rated_w: int = 5_000) -> ControlRegisters:
    """Return what a SUN2000 with a LUNA2000 lets a client write; forced commands end by themselves."""
    watts, permille = range(rated_w + 1), range(1001)
    return ControlRegisters(
        (
            Register("started_at", 32091, 2, 1_780_000_000),
            Register("most_charge_w", 37046, 2, rated_w),
            Register("most_discharge_w", 37048, 2, rated_w),
            Register("max_charge_w", 47075, 2, rated_w, watts, stored=True),
            Register("max_discharge_w", 47077, 2, rated_w, watts, stored=True),
            Register("forced_period_min", 47083, 1, 0, range(1441)),
            Register("working_mode", 47086, 1, 5, (0, 1, 2, 4, 5), stored=True),
            Register("charge_from_grid", 47087, 1, 0, (0, 1), stored=True),
            Register("forced_command", 47100, 1, 0, (0, 1, 2)),
            Register("forced_target_soc_percent", 47101, 1, 1000, permille),
            Register("reserve_percent", 47102, 1, 150, permille, stored=True),
            Register("forced_goal", 47246, 1, 0, (0, 1)),
            Register("forced_charge_w", 47247, 2, 0, watts),
            Register("forced_discharge_w", 47249, 2, 0, watts),
        ),
        Timer("forced_command", "forced_period_min"),
        now_ms,
    )


def add_control_options(parser: argparse.ArgumentParser) -> None:
    """Add what goes wrong with commands to the simulated hybrid."""
    parser.add_argument(
        "--refuse-write", action="append", default=[], metavar="NAME", help="the hybrid refuses this register (busy)"
    )
    parser.add_argument(
        "--second-master",
        type=float,
        metavar="S",
        help="another master stops the hybrid's forced command every S seconds",
    )


def control_from(args: argparse.Namespace, now_ms: Callable[[], int]) -> ControlRegisters:
    """Return the hybrid's registers as the options want them; raises ValueError."""
    control = huawei_control(now_ms)
    for name in args.refuse_write:
        if name not in control.bits:
            raise ValueError(f"--refuse-write {name}: one of {', '.join(control.bits)}")
        control.refusals[name] = [-FAILURE]
    return control


async def fight(control: ControlRegisters, every_s: float | None) -> None:
    """Wait until cancelled; be the second master meanwhile, if there is to be one."""
    while True:
        await asyncio.sleep(every_s or 3600)
        if every_s is not None:
            control.foreign("forced_command", 0)
