"""A box that cannot reach the town: its outbox is exported to a file, and the aggregator imports it."""

from __future__ import annotations

from decimal import Decimal

import yaml
from harness import rows

from aggregator.__main__ import main
from drivers.api import Event, Sample
from edge_agent.clock import ClockSettings, SystemClock
from edge_agent.outbox import Outbox, OutboxSettings, export

ENERGY = Decimal("8796.2")


async def test_an_exported_outbox_is_imported_once(tmp_path, capsys) -> None:
    clock = SystemClock(ClockSettings(trust="system"))
    async with Outbox.open(tmp_path / "outbox.db", "house-001", clock, OutboxSettings(write_after=0)) as outbox:
        for offset in range(3):
            at = clock.boot_ms() - 1000 * offset
            await outbox.accept("meter", Sample("meter", at, {"import_energy_kwh": ENERGY, "grid_power_w": offset}))
        await outbox.accept("meter", Event("meter", "device_lost", clock.boot_ms(), {"reason": "test"}))
    carried = tmp_path / "carried.jsonl"
    carried.write_bytes(b"\n".join(export(tmp_path / "outbox.db")) + b"\n")
    config = tmp_path / "aggregator.yaml"
    config.write_text(yaml.safe_dump({"store": {"path": str(tmp_path / "town.db")}, "mqtt": {}, "http": {}}))

    for _ in range(2):
        assert main(["import", str(carried), "--config", str(config)]) == 0, capsys.readouterr()
    stored = rows(tmp_path / "town.db", "house-001")
    assert sorted(row.values["grid_power_w"] for row in stored) == [0, 1, 2]
    assert {row.values["import_energy_kwh"] for row in stored} == {ENERGY}
