"""Runs ThingsBoard's Modbus connector without its gateway, in its own environment, and prints what it cost as JSON.

`python thingsboard_connector.py CONFIGURATION SECONDS`. A stub takes the converted values where the gateway would store
and publish them, so that only reading and converting are measured. Nothing of this project can be imported here.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WARM_UP_S = 3.0


class RemoteHandler(logging.NullHandler):
    """Stands where log records would go to the platform."""

    def __init__(self) -> None:
        super().__init__()
        self.loggers: dict[str, str] = {}

    def add_logger(self, name: str, level: str) -> None:
        self.loggers[name] = level

    update_logger = add_logger


class Gateway:
    """As much of a gateway as the connector asks for; counts the values it is given."""

    def __init__(self) -> None:
        self.points = 0
        self.remote_handler = RemoteHandler()
        self._devices: dict[str, Any] = {}

    def get_config_path(self) -> str:
        return tempfile.gettempdir() + "/"

    def get_devices(self) -> dict[str, Any]:
        return self._devices

    def add_device(self, name: str, content: Any, **_: Any) -> bool:
        self._devices[name] = content
        return True

    def get_report_strategy_service(self) -> None:
        return None

    def send_to_storage(self, _name: str, _id: str, data: Any) -> None:
        self.points += data.telemetry_datapoints_count


def resident_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def main(configuration: str, seconds: float) -> None:
    """Poll for a while, then print {points, cpu_s, resident_kib}."""
    from thingsboard_gateway.connectors.modbus.modbus_connector import AsyncModbusConnector  # noqa: PLC0415  (slow)
    from thingsboard_gateway.tb_utility.tb_logger import TbLogger  # noqa: PLC0415  (likewise)

    logging.setLoggerClass(TbLogger)
    gateway = Gateway()
    connector = AsyncModbusConnector(gateway, json.loads(Path(configuration).read_text()), "modbus")
    connector.open()
    time.sleep(WARM_UP_S)
    points, used = gateway.points, time.process_time()
    time.sleep(seconds)
    cost = {"points": gateway.points - points, "cpu_s": time.process_time() - used, "resident_kib": resident_kib()}
    print(json.dumps(cost), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
