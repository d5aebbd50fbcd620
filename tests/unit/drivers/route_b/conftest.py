"""A scripted dongle behind a real pseudo-terminal, a clock of any speed, and a place where samples end up."""

import asyncio
import contextlib
import os
import tty

import pytest

from drivers.api import Context, Event, Sample
from drivers.route_b.driver import create

MAC = "0011223344556677"
METER = "FE80:0000:0000:0000:0211:2233:4455:6677"
ME = "FE80:0000:0000:0000:021D:1291:0004:E578"
ROUTE_B_ID = "00112233445566778899AABBCCDDEEFF"
PASSWORD = "0123456789AB"
CREDENTIALS = f'{{"id": "{ROUTE_B_ID}", "password": "{PASSWORD}"}}'

VALUES = {
    0xE7: "000003A1",
    0xE8: "00460028",
    0xE0: "0000B9D7",
    0xE3: "0000000B",
    0xE1: "01",
    0xD3: "00000001",
    0xD7: "06",
    0x82: "00004600",
    0x8A: "000016",
    0x8D: "463234473336363530350000",
    0xEA: "07EA060100000000000064",
    0xEB: "07EA060100000000000003",
}


class Dongle:
    """Answers commands from a table of texts; a text may be replaced, and anything can be said at any time."""

    def __init__(self, dialect="C2"):
        self.dialect = dialect
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        self.path = os.ttyname(self.slave)
        self.commands = []  # what was received, SKSENDTO with its data as bytes
        self.requests = []  # the ECHONET frames among them
        self.values = dict(VALUES)
        self.answers = {}  # command or its first word → what is said; None = silence
        self.deaf = False  # the meter hears requests but answers none
        self.heard = asyncio.Event()
        self._buffer = b""
        asyncio.get_running_loop().add_reader(self.master, self._read)

    def close(self):
        if self.master >= 0:
            asyncio.get_running_loop().remove_reader(self.master)
            os.close(self.master)
            self.master = -1

    def unplug(self):
        self.close()
        os.close(self.slave)
        self.slave = -1

    def release(self):
        self.close()
        if self.slave >= 0:
            os.close(self.slave)

    def say(self, text):
        os.write(self.master, text if isinstance(text, bytes) else text.encode())

    @property
    def side(self):
        return " 0" if self.dialect == "C2" else ""

    def event(self, number, parameter=""):
        self.say(f"EVENT {number} {METER}{self.side}{parameter and ' ' + parameter}\r\n")

    def datagram(self, frame, *, mac=MAC, secured=1, port="0E1A", lqi=""):
        head = f"ERXUDP {METER} {ME} {port} {port} {mac} {lqi and lqi + ' '}{secured}{self.side}"
        self.say(f"{head} {len(frame) // 2:04X} {frame}\r\n")

    def pana(self, mac=MAC):
        secret = (b"SM" + ROUTE_B_ID.encode()).hex().upper()
        self.datagram("00000068" + "00" * 30 + secret + "00" * 36, mac=mac, secured=0, port="02CC")

    async def until(self, condition):
        """Wait until something received makes `condition()` true."""
        async with asyncio.timeout(10):
            while not condition():
                self.heard.clear()
                await self.heard.wait()

    def count(self, word):
        return sum(line.startswith(word) for line in self.commands)

    def _read(self):
        try:
            self._buffer += os.read(self.master, 65536)
        except OSError:
            asyncio.get_running_loop().remove_reader(self.master)
            return
        while self._take():
            self.heard.set()

    def _take(self):
        self._buffer = self._buffer.lstrip(b"\r\n\0")
        if self._buffer.startswith(b"SKSENDTO"):
            words = self._buffer.split(b" ", 7 if self.dialect == "C2" else 6)
            if len(words) < (8 if self.dialect == "C2" else 7) or len(words[-1]) < int(words[-2], 16):
                return False
            data = words[-1][: int(words[-2], 16)]
            self._buffer = words[-1][len(data) :]
            self.commands.append("SKSENDTO")
            self.requests.append(data)
            self._send(data)
            return True
        line, end, rest = self._buffer.partition(b"\r")
        if not end:
            return False
        self._buffer = rest
        text = line.decode("ascii", "replace")
        self.commands.append(text)
        answer = self.answers.get(text, self.answers.get(text.split()[0], self._usual(text)))
        if callable(answer):
            answer = answer()
        if answer is not None:
            self.say(answer)
        return True

    def _send(self, data):
        answer = self.answers.get("SKSENDTO", self.reply)
        if answer is not None:
            answer(data)

    def reply(self, data):
        """Behave as a dongle and a meter without any latency."""
        self.event(21, "00")
        self.say("OK\r\n")
        if not self.deaf and data[10] in (0x61, 0x62):
            self.datagram(self.answer_to(data), lqi="5A" if self.dialect == "C2" else "")

    def answer_to(self, data):
        """Return the meter's answer to a Get: served properties with data, others without (Get_SNA)."""
        if data[10] == 0x61:  # this meter's memory cannot be read
            return f"1081{data[2:4].hex().upper()}02880105FF0151{data[11:].hex().upper()}"
        epcs = data[12::2]
        served = {epc: self.values.get(epc) or "" for epc in epcs}
        esv = "72" if all(served.values()) else "52"
        body = "".join(f"{epc:02X}{len(edt) // 2:02X}{edt}" for epc, edt in served.items())
        return f"1081{data[2:4].hex().upper()}02880105FF01{esv}{len(epcs):02X}{body}"

    def _usual(self, text):
        if text.startswith("SKSCAN"):
            side = "  Side:0\r\n" if self.side else ""
            return (
                f"OK\r\nEVENT 20 {METER}{self.side}\r\nEPANDESC\r\n  Channel:31\r\n  Channel Page:09\r\n"
                f"  Pan ID:6677\r\n  Addr:{MAC}\r\n  LQI:DD\r\n{side}  PairID:CCDDEEFF\r\nEVENT 22 {ME}{self.side}\r\n"
            )
        return {
            "SKVER": "EVER 1.5.2\r\nOK\r\n",
            "ROPT": "OK 01\r",
            "WOPT": "OK\r",
            "SKINFO": f"EINFO {ME} 001D12910004E578 21 FFFF {'0' if self.side else 'FFFE'}\r\nOK\r\n",
            "SKJOIN": f"OK\r\nEVENT 21 {METER}{self.side} 00\r\nEVENT 25 {METER}{self.side}\r\n",
            "SKTERM": "FAIL ER10\r\n",
        }.get(text.split()[0], "OK\r\n")


class Clock:
    """The boot clock and UTC at any speed; `start` is what UTC shows in the beginning."""

    def __init__(self, speed=600.0, start_ms=1_780_239_600_000):  # 2026-06-01T00:00:00+09:00
        self.speed = speed
        self.start_ms = start_ms
        self._since = asyncio.get_running_loop().time()

    def _elapsed_ms(self):
        return (asyncio.get_running_loop().time() - self._since) * 1000 * self.speed

    def boot_ms(self):
        return 1_000_000 + int(self._elapsed_ms())

    def unix_ms(self):
        return self.start_ms + int(self._elapsed_ms())

    async def sleep_until(self, boot_ms):
        await asyncio.sleep(max(0.0, (boot_ms - self.boot_ms()) / 1000 / self.speed))


class Memory:
    def __init__(self):
        self.kept = {}

    def get(self, key):
        return self.kept.get(key)

    async def update(self, changes):
        self.kept.update(changes)


class Bench:
    """A driver at work: what it emitted, and the means to wait for more."""

    def __init__(self, driver, memory, clock):
        self.driver, self.memory, self.clock = driver, memory, clock
        self.items = []
        self.error = None
        self._news = asyncio.Event()

    async def emit(self, item, remember=None):
        self.items.append(item)
        await self.memory.update(remember or {})
        self._news.set()

    @property
    def samples(self):
        return [item for item in self.items if isinstance(item, Sample) and isinstance(item.at, int)]

    @property
    def half_hours(self):
        return [item for item in self.items if isinstance(item, Sample) and not isinstance(item.at, int)]

    @property
    def events(self):
        return [item for item in self.items if isinstance(item, Event)]

    async def until(self, condition):
        async with asyncio.timeout(10):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def run(self):
        try:
            await self.driver.run(self.emit, self.memory)
        except Exception as error:  # noqa: BLE001  (whatever it is, the test judges it)
            self.error = error
        finally:
            self._news.set()


@pytest.fixture
async def dongle():
    made = Dongle()
    yield made
    made.release()


@pytest.fixture
async def other_dongle():
    made = Dongle()
    yield made
    made.release()


@pytest.fixture
def working():
    """Return a context manager that runs a driver on a dongle: `async with working(dongle, …) as bench`."""

    @contextlib.asynccontextmanager
    async def start(dongle, memory=None, speed=600.0, **settings):
        clock = Clock(speed)
        context = Context("meter", clock, {"route-b": CREDENTIALS}.__getitem__)
        table = {"port": dongle.path, "credentials": "route-b", "poll_s": 10} | settings
        bench = Bench(create(context, table), memory or Memory(), clock)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(bench.run())
            yield bench
            task.cancel()

    return start
