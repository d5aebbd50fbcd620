"""The writable side of a simulated device: limits, flash, revert timer, refusals, a second master, an obeying battery.

What can be written and what it does is a `Description`: of a register map (modbus_control) or written down by hand from
a maker's document, as the hybrid's here, which shares nothing with the map it is compared with. Knows no socket.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from drivers.arguments import real
from simulators.house import Balance

READ_FUNCTIONS = {3: "holding", 4: "input"}
WRITE_ONE, WRITE_MANY = 6, 16
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE, FAILURE = 1, 2, 3, 4
WS_PER_WH = 3_600

Key = tuple[str, int, int]
"""Space, address and length: what has the same one is the same register under another name."""


@dataclass(frozen=True, slots=True)
class Register:
    """One value: written with the bits that `takes` accepts, or only read; `stored` ones survive a restart."""

    name: str
    address: int
    words: int
    initial: int
    takes: Callable[[int], bool] | Sequence[int] = ()
    stored: bool = False
    space: str = "holding"
    needs_block: bool = True
    number: Callable[[int], Fraction] = Fraction
    """What its bits mean, in the value's unit."""

    @property
    def key(self) -> Key:
        """Say which register it is."""
        return self.space, self.address, self.words

    def accepts(self, bits: int) -> bool:
        """Return whether the device takes these bits."""
        return self.takes(bits) if callable(self.takes) else bits in self.takes


@dataclass(frozen=True, slots=True)
class Timer:
    """A write of one of `starts` starts it; when it is over the device sets `ends` by itself.

    It lasts as long as the register `setting` says in `unit_s`, which `counts_down` if so, or always `fixed_s`.
    """

    starts: frozenset[str] = frozenset()
    ends: Mapping[str, int] = field(default_factory=dict)
    setting: str | None = None
    unit_s: int = 1
    fixed_s: int = 0
    counts_down: bool = False


@dataclass(frozen=True, slots=True)
class Act:
    """What the battery does while registers hold `when`, and, if it is `timed`, while the timer runs.

    `kind` is charge, discharge (both with the power of a register), hold, discharge_to_load (no more than that power)
    or reserve (not below that percentage).
    """

    kind: str
    when: Mapping[str, int]
    amount: str | None = None
    per: str | None = None
    timed: bool = False


@dataclass(frozen=True, slots=True)
class Description:
    """All that a device lets a client write, and what comes of it; `command` is what a second master takes back."""

    registers: tuple[Register, ...]
    timer: Timer = Timer()
    acts: tuple[Act, ...] = ()
    command: str = ""
    witness: str | None = None
    """A register that counts restarts."""
    passive: frozenset[str] = frozenset()
    """Registers that command nothing by themselves."""


class ControlRegisters:
    """The registers of one unit that can be written, and what became of them."""

    def __init__(self, description: Description, now_ms: Callable[[], int]) -> None:
        self.description = description
        self._registers = {register.name: register for register in description.registers}
        self._now_ms = now_ms
        self._expires_ms: int | None = None
        self._values: dict[Key, int] = {}
        for register in description.registers:
            self._values.setdefault(register.key, register.initial)
        self._initial = dict(self._values)
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
        self._battery = _Battery()

    def __getitem__(self, name: str) -> int:
        return self.bits[name]

    @property
    def bits(self) -> dict[str, int]:
        """What each register holds now."""
        self._tick()
        return {name: self._shown(register) for name, register in self._registers.items()}

    @property
    def is_normal(self) -> bool:
        """Whether nothing that commands the battery differs from what it was."""
        return not self.changed().keys() - self.description.passive

    def changed(self) -> dict[str, int]:
        """Return what differs from the beginning."""
        still = {self.description.witness}
        if self.description.timer.counts_down:
            still.add(self.description.timer.setting)
        return {
            name: bits
            for name, bits in self.bits.items()
            if name not in still and bits != self._initial[self._registers[name].key]
        }

    @property
    def in_force(self) -> list[str]:
        """What the battery is told to do until a timer ends it."""
        self._tick()
        return [act.kind for act in self.description.acts if act.timed and self._holds(act)]

    def foreign(self, name: str, bits: int) -> None:
        """Another master, such as the maker's cloud, sets a register."""
        self._set(name, bits)

    def interfere(self) -> None:
        """Be another master that takes the command back."""
        name = self.description.command
        self.foreign(name, self._initial[self._registers[name].key])

    def restart(self) -> None:
        """Lose all that is not stored, and show another start time."""
        self.starts += 1
        self._expires_ms = None
        for one in self._registers.values():
            if not one.stored:
                self._values[one.key] = self._initial[one.key]
        if (witness := self.description.witness) is not None:
            key = self._registers[witness].key
            self._values[key] = self._initial[key] + self.starts

    def words(self, space: str) -> dict[int, int]:
        """Return the registers of a space, by address."""
        self._tick()
        return {
            one.address + index: self._shown(one) >> 16 * (one.words - 1 - index) & 0xFFFF
            for one in self._registers.values()
            if one.space == space
            for index in range(one.words)
        }

    def number_at(self, space: str, address: int) -> Fraction | None:
        """Return what the register at an address means; None where there is none."""
        one = next((one for one in self._registers.values() if (one.space, one.address) == (space, address)), None)
        return None if one is None else one.number(self._shown(one))

    def written(self, pdu: bytes) -> bytes:
        """Return the answer to a write; b"" for none at all."""
        self._tick()
        code, name = self._carry_out(pdu)
        if code:
            return bytes((pdu[0] | 0x80, code))
        if self.on_write is not None:
            self.on_write(name)
        return b"" if self.mute_after_write else pdu[:5]

    def overlay(self, balance: Balance) -> Balance:
        """Return the house's balance with the battery doing what it was told."""
        self._tick()
        return self._battery.follow(balance, self._commanded)

    def _commanded(self, watts: int, soc_permille: int) -> int:
        """Return what a battery does that would do `watts` by itself."""
        acts = [act for act in self.description.acts if self._holds(act)]
        amounts = {act.kind: self._amount(act) for act in acts}
        for kind, sign in (("charge", -1), ("discharge", 1)):
            if amounts.get(kind):
                return sign * amounts[kind]
        if "hold" in amounts:
            return min(watts, 0)
        if "discharge_to_load" in amounts:
            watts = min(watts, max(amounts["discharge_to_load"], 0))
        return min(watts, 0) if soc_permille < 10 * amounts.get("reserve", 0) else watts

    def _holds(self, act: Act) -> bool:
        return self._is_set(act) and (self._expires_ms is not None or not act.timed)

    def _is_set(self, act: Act) -> bool:
        return all(self._values[self._registers[name].key] == bits for name, bits in act.when.items())

    def _amount(self, act: Act) -> int:
        if act.amount is None:
            return 0
        names = [act.amount] if act.per is None else [act.amount, act.per]
        product = Fraction(1)
        for name in names:
            one = self._registers[name]
            product *= one.number(self._values[one.key])
        return int(product)

    def _carry_out(self, pdu: bytes) -> tuple[int, str]:
        """Carry a write out; returns 0 and the register's name, or the exception code of its refusal."""
        if pdu[0] == WRITE_ONE and len(pdu) == 5:
            (address, bits), words = struct.unpack(">HH", pdu[1:]), 1
        elif pdu[0] == WRITE_MANY and len(pdu) >= 6 and len(pdu) == 6 + pdu[5]:
            address, words = struct.unpack(">HH", pdu[1:5])
            bits = int.from_bytes(pdu[6:], "big")
        else:
            return ILLEGAL_VALUE, ""
        named = [one for one in self._registers.values() if one.key == ("holding", address, words) and one.takes]
        if pdu[0] == WRITE_ONE and any(one.needs_block for one in named):
            return ILLEGAL_FUNCTION, ""
        if not named:
            return ILLEGAL_ADDRESS, ""
        if code := next((code for one in named if (code := self._refusal(one.name))), 0):
            return code, ""
        one = next((one for one in named if one.accepts(bits)), None)
        if one is None:
            return ILLEGAL_VALUE, ""
        self.writes.update((one.name, "stored" if one.stored else "ram"))
        self.order.append((one.name, bits))
        if one.name not in self.deaf:
            self._set(one.name, bits)
        return 0, one.name

    def _refusal(self, name: str) -> int:
        codes = self.refusals.get(name, [])
        if not codes:
            return 0
        return -codes[0] if codes[0] < 0 else codes.pop(0)

    def _set(self, name: str, bits: int) -> None:
        self._values[self._registers[name].key] = bits
        if name in self.description.timer.starts:
            self._expires_ms = self._now_ms() + 1000 * self._lasts_s()
        if not any(act.timed and self._is_set(act) for act in self.description.acts):
            self._expires_ms = None

    def _lasts_s(self) -> int:
        timer = self.description.timer
        if timer.setting is None:
            return timer.fixed_s
        return (
            int(self._registers[timer.setting].number(self._values[self._registers[timer.setting].key])) * timer.unit_s
        )

    def _shown(self, one: Register) -> int:
        timer = self.description.timer
        if one.name == timer.setting and timer.counts_down and self._expires_ms is not None:
            left_s = max(self._expires_ms - self._now_ms(), 0) / 1000
            return min(-int(-left_s // timer.unit_s), self._values[one.key])
        return self._values[one.key]

    def _tick(self) -> None:
        if self._expires_ms is None or self._now_ms() < self._expires_ms:
            return
        timer, self._expires_ms = self.description.timer, None
        for name, bits in timer.ends.items():
            self._values[self._registers[name].key] = bits
        if timer.counts_down and timer.setting is not None:
            self._values[self._registers[timer.setting].key] = 0


class _Battery:
    """What a commanded battery did beyond what the house's own does; its energies never run backwards."""

    def __init__(self) -> None:
        self._last_ms: int | None = None
        self._stored_ws = 0
        self._beyond: Counter[str] = Counter()
        self._shown: dict[str, int] = {}

    def follow(self, balance: Balance, commanded: Callable[[int, int], int]) -> Balance:
        """Return the balance with the battery as commanded: (watts by itself, permille) → watts."""
        capacity_ws = balance.battery_wh * WS_PER_WH * 1000 // balance.soc_permille if balance.soc_permille else 0
        soc = balance.soc_permille + (self._stored_ws * 1000 // capacity_ws if capacity_ws else 0)
        soc = max(0, min(1000, soc))
        battery_w = commanded(balance.battery_w, soc)
        if (soc >= 1000 and battery_w < 0) or (soc <= 0 and battery_w > 0):
            battery_w = 0
        grid_w = balance.load_w - balance.pv_w - battery_w
        elapsed_s = 0 if self._last_ms is None else max(balance.unix_ms - self._last_ms, 0) // 1000
        self._last_ms = max(balance.unix_ms, self._last_ms or 0)
        self._stored_ws += (balance.battery_w - battery_w) * elapsed_s
        flows = {
            "charge_ws": max(-battery_w, 0) - max(-balance.battery_w, 0),
            "discharge_ws": max(battery_w, 0) - max(balance.battery_w, 0),
            "import_ws": max(grid_w, 0) - max(balance.grid_w, 0),
            "export_ws": max(-grid_w, 0) - max(-balance.grid_w, 0),
        }
        for name, watts in flows.items():
            self._beyond[name] += watts * elapsed_s
            self._shown[name] = max(getattr(balance, name) + self._beyond[name], self._shown.get(name, 0))
        stored_wh = balance.battery_wh + self._stored_ws // WS_PER_WH
        return replace(
            balance, battery_w=battery_w, grid_w=grid_w, soc_permille=soc, battery_wh=max(stored_wh, 0), **self._shown
        )


def huawei_description(rated_w: int = 5_000) -> Description:
    """Return what a SUN2000 with a LUNA2000 lets a client write; forced commands end by themselves.

    By hand from the maker's document; field reports say that it answers exception 1 to function 6.
    """
    watts, permille = range(rated_w + 1), range(1001)
    tenths = _tenths
    return Description(
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
            Register("forced_target_soc_percent", 47101, 1, 1000, permille, number=tenths),
            Register("reserve_percent", 47102, 1, 150, permille, stored=True, number=tenths),
            Register("forced_goal", 47246, 1, 0, (0, 1)),
            Register("forced_charge_w", 47247, 2, 0, watts),
            Register("forced_discharge_w", 47249, 2, 0, watts),
        ),
        Timer(frozenset({"forced_command"}), {"forced_command": 0}, "forced_period_min", unit_s=60),
        (
            Act("charge", {"forced_command": 1}, "forced_charge_w", timed=True),
            Act("discharge", {"forced_command": 2}, "forced_discharge_w", timed=True),
            Act("hold", {"max_discharge_w": 0}),
            Act("discharge_to_load", {}, "max_discharge_w"),
            Act("reserve", {}, "reserve_percent"),
        ),
        command="forced_command",
        witness="started_at",
        passive=frozenset({"forced_period_min", "forced_goal", "forced_charge_w", "forced_discharge_w"}),
    )


def _tenths(bits: int) -> Fraction:
    return Fraction(bits, 10)


def huawei_control(now_ms: Callable[[], int], rated_w: int = 5_000) -> ControlRegisters:
    """Return the writable side of the built-in hybrid."""
    return ControlRegisters(huawei_description(rated_w), now_ms)


def add_control_options(parser: argparse.ArgumentParser) -> None:
    """Add what goes wrong with commands to a simulated device that takes them."""
    parser.add_argument(
        "--refuse-write", action="append", default=[], metavar="NAME", help="the device refuses this register (busy)"
    )
    parser.add_argument(
        "--second-master",
        type=real(0.001, 1e9),
        metavar="S",
        help="another master takes the command back every S seconds",
    )


def trouble(control: ControlRegisters, args: argparse.Namespace) -> None:
    """Let the device refuse what the options say; raises ValueError."""
    for name in args.refuse_write:
        if name not in control.bits:
            raise ValueError(f"--refuse-write {name}: one of {', '.join(control.bits)}")
        control.refusals[name] = [-FAILURE]


async def fight(control: ControlRegisters | None, every_s: float | None) -> None:
    """Wait until cancelled; be the second master meanwhile, if there is to be one."""
    while True:
        await asyncio.sleep(every_s or 3600)
        if every_s is not None and control is not None:
            control.interfere()
