"""What an installer wants to know of Route B, step by step, each failure with its remedy. Opens nothing, asks nothing.

`check` reads what the driver says of itself (`status`), so that it says the same through a running agent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from drivers.api import Context
from drivers.route_b import radio
from drivers.route_b.credentials import REFUSALS, REMEDY

Step: TypeAlias = tuple[str, str, str, str]
"""Name, verdict (ok, warning or error), what was found, what to do."""

_PORT_REMEDY = (
    "ドングルを挿し、port を /dev/serial/by-id/ の名前に。ユーザーは dialout グループへ / "
    "plug the dongle in, name its link of /dev/serial/by-id/ as port, and let the agent's user be in group dialout"
)
_DONGLE_REMEDY = (
    "挿し直す。対応ドングルか、他のプログラムが使っていないか確認 / "
    "plug it in again; check that it is a Wi-SUN dongle for Route B and that nothing else uses it"
)
_NOTHING_REMEDY = (
    "メーターに近づける(延長ケーブル)、IDの末尾8文字を確認、Bルート開通を電力会社に確認 / "
    "move the dongle nearer to the meter (extension cable), check the last 8 characters of the ID, "
    "ask the power company whether the Route B service has begun"
)
_FOREIGN_REMEDY = (
    "近所のメーターだけが応答。IDの末尾8文字を確認 / "
    "only other houses' meters answer: check the last 8 characters of the ID, then as for a silent meter: "
)
_REFUSED_REMEDY = "パスワードとIDの先頭24文字を確認 / check the password and the first 24 characters of the ID; "
_REFUSED_ONCE_REMEDY = (
    "少し待って再実行。続くならパスワードとIDの先頭24文字を確認 / "
    "run it again in a minute; if it stays, check the password and the first 24 characters of the ID"
)
_WEAK_REMEDY = "ドングルの位置を変える / move the dongle while watching: edge-agent route-b aim CONFIG"
_LOST_REMEDY = (
    "再接続を待って再実行。続くなら電波が弱い。位置を変える / it joins again by itself: run it again in a minute; "
    "if it stays, the radio is too weak; move the dongle while watching: edge-agent route-b aim CONFIG"
)
_SILENT_REMEDY = (
    "電波が弱い。位置を変える / the radio is too weak; move the dongle while watching: edge-agent route-b aim CONFIG"
)


@dataclass(frozen=True, slots=True)
class _Meter:
    """What the driver says, with the words of the table it was built from."""

    port: str
    state: str
    error: str
    detail: Mapping[str, Any]

    @property
    def trouble(self) -> str:
        return str(self.detail.get("trouble") or self.error or "")

    @property
    def answers(self) -> bool:
        return bool(self.detail.get("firmware"))

    @property
    def is_shut(self) -> bool:
        """Tell whether the driver has given the port up for a while."""
        return self.state == "waiting" and self.detail.get("state") in {"closed", "opening", None}

    @property
    def is_joined(self) -> bool:
        """Tell whether it is so now: polls of an earlier session prove nothing once something stands in the way."""
        return self.detail.get("state") in {"joined", "limited"} or (self.was_read and not self.trouble)

    @property
    def was_read(self) -> bool:
        return bool(self.detail.get("polls"))

    @property
    def refusals(self) -> int:
        """Return how many joins in a row were declined; the driver counts them anew after a join."""
        return int(self.detail.get("refusals") or 0)


def check(context: Context, table: Mapping[str, Any], health: Mapping[str, Any]) -> Iterator[Step]:
    """Yield the steps as far as they were reached: after the first failure nothing more can be known."""
    name = context.name
    detail = health.get("detail")
    meter = _Meter(
        str(table.get("port", "")),
        str(health.get("state", "")),
        str(health.get("error") or ""),
        detail if isinstance(detail, Mapping) else {},
    )
    for step in (_credentials, _port, _dongle, _network, _signal, _join, _reading, _history):
        found = step(meter)
        if found is None:
            continue
        what, verdict, said, remedy = found
        yield f"{name}: {what}", verdict, said, remedy
        if verdict == "error":
            return


def _credentials(meter: _Meter) -> Step | None:
    if meter.state == "waiting_for_credentials" and not meter.answers:
        said = f"待機中 / waiting for credentials: {meter.error.partition('; ')[0]}"
        return "credentials", "error", said, REMEDY
    return "credentials", "ok", "ID 32文字・パスワード12文字 / an ID of 32 and a password of 12 characters", ""


def _port(meter: _Meter) -> Step:
    if meter.is_shut and meter.trouble.startswith(f"{meter.port}:"):
        return "port", "error", meter.trouble, _PORT_REMEDY
    return "port", "ok", meter.port, ""


def _dongle(meter: _Meter) -> Step:
    if meter.is_shut:
        return "dongle", "error", meter.trouble or "応答なし / does not answer", _DONGLE_REMEDY
    if not meter.answers:
        return "dongle", "warning", "まだ応答なし / has not answered yet", "少し待って再実行 / run it again in a minute"
    said = f"ファームウェア / firmware {meter.detail['firmware']}, {meter.detail.get('dialect')}"
    return "dongle", "ok", said, ""


def _network(meter: _Meter) -> Step:
    detail = meter.detail
    channel, pan_id = detail.get("channel"), detail.get("pan_id")
    if detail.get("nothing_found"):
        foreign = detail.get("foreign_networks")
        said = "メーターが見つからない / no meter found in any scan"
        if foreign:
            said += f" (他のメーター / others: {foreign})"
        return "network", "error", said, (_FOREIGN_REMEDY if foreign else "") + _NOTHING_REMEDY
    if channel is None and detail.get("state") == "waiting" and not meter.trouble:
        said = "順番待ち / waits for its turn: 30 s lie between two joins"
        return "network", "warning", said, "少し待って再実行 / run it again in a minute"
    if channel is None:
        said = f"スキャン中 / still scanning ({detail.get('state')})"
        return "network", "warning", said, "少し待って再実行 / run it again in a minute or two"
    return "network", "ok", f"チャネル / channel {channel}, PAN {pan_id}", ""


def _signal(meter: _Meter) -> Step | None:
    dbm = meter.detail.get("rssi_dbm")
    if dbm is None:
        return None
    word = radio.strength(float(dbm))
    said = f"{dbm} dBm, {radio.WORDS[word]}"
    return ("signal", "ok", said, "") if word in {"good", "fair"} else ("signal", "warning", said, _WEAK_REMEDY)


def _join(meter: _Meter) -> Step | None:
    detail = meter.detail
    if meter.refusals >= REFUSALS:  # also of credentials that worked before: a person must look at them
        said = "メーターが認証を拒否 / the meter was found and refuses the credentials"
        return "join", "error", said, _REFUSED_REMEDY + REMEDY
    if meter.refusals and not meter.is_joined:
        said = "拒否された。再試行中 / refused once, trying again"
        return "join", "warning", said, _REFUSED_ONCE_REMEDY
    if meter.is_joined:
        seconds = detail.get("join_s")
        took = "" if seconds is None else f", {seconds} s"
        return "join", "ok", f"接続{took} / joined{took}", ""
    if detail.get("channel") is None:
        return None
    if detail.get("state") == "joining" and not detail.get("trouble"):
        return "join", "warning", "接続中 / joining", "少し待って再実行 / run it again in a minute"
    remedy = _LOST_REMEDY if meter.was_read else _SILENT_REMEDY
    return "join", "error", meter.trouble or "応答なし / no answer", remedy


def _reading(meter: _Meter) -> Step | None:
    if not meter.is_joined:
        return None
    polls, failures = meter.detail.get("polls", 0), meter.detail.get("failures", 0)
    if not polls:
        return "reading", "warning", meter.trouble or "まだ値なし / no values yet", _SILENT_REMEDY
    if meter.detail.get("trouble"):
        return "reading", "warning", f"いまは応答なし / silent now: {meter.trouble}", _SILENT_REMEDY
    loss = meter.detail.get("loss")
    lost = "" if loss is None else f", 損失 / loss {100 * float(loss):.0f} %"
    return "reading", "ok", f"{polls}回 / {polls} readings, 失敗 / failed {failures}{lost}", ""


def _history(meter: _Meter) -> Step | None:
    offered = meter.detail.get("history")
    if offered is None:
        return None
    if not offered:
        said = "メーターは30分値の履歴を出さない / the meter does not give its half-hour history"
        return "history", "warning", said, "欠測は補えません / gaps cannot be repaired"
    repaired, waiting = meter.detail.get("repaired", 0), meter.detail.get("days_to_read", 0)
    said = f"履歴あり / available, 補完 / repaired {repaired}, 残り / days to read {waiting}"
    return "history", "ok", said, ""
