"""The command `edge-sim`: one subcommand per simulator, each imported only when named. Simulates nothing itself."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import inspect
import signal
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

SIMULATORS = {
    "meter": ("simulators.meter", "a Wi-SUN dongle and the smart meter behind it, on a pseudo-terminal"),
    "inverter": ("simulators.inverter", "PV and battery over Modbus TCP"),
    "house": ("simulators.household", "meter and inverter of one house"),
    "tags": ("simulators.bluez", "BlueZ on a private D-Bus, with walking tags and strangers"),
    "echonet": ("simulators.echonet", "PV, battery, EcoCute and air conditioner over ECHONET Lite (UDP)"),
    "lamp": ("simulators.lamp", "an alert lamp over Modbus TCP"),
    "demo": ("simulators.demo", "the whole town: simulators, broker, aggregator and agents"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one simulator until SIGTERM, SIGINT or its own end; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] not in SIMULATORS:
        return _overview(arguments)
    name = arguments[0]
    module_name, help_text = SIMULATORS[name]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        print(f"edge-sim {name} cannot start: {error}; install edge-gateway[simulators,demo]", file=sys.stderr)
        return 1
    parser = argparse.ArgumentParser(prog=f"edge-sim {name}", description=help_text)
    module.configure(parser)
    return _run(module.run, parser.parse_args(arguments[1:]), name)


def _overview(arguments: list[str]) -> int:
    asked = arguments in (["-h"], ["--help"])
    stream = sys.stdout if asked else sys.stderr
    print("usage: edge-sim NAME [options]\n\nDevices for the gateway, or for any other client:\n", file=stream)
    for name, (_, help_text) in SIMULATORS.items():
        print(f"  {name:10}{help_text}", file=stream)
    print("\nedge-sim NAME --help lists its options.", file=stream)
    return 0 if asked else 2


def _run(run: Any, args: argparse.Namespace, name: str) -> int:
    code = 0
    try:
        if inspect.iscoroutinefunction(run):
            code = asyncio.run(_until_told(run(args)))
        else:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            with contextlib.suppress(KeyboardInterrupt):
                code = int(run(args))
    except* (OSError, ValueError) as errors:
        code = 1
        for error in _leaves(errors):
            print(f"edge-sim {name}: {error}", file=sys.stderr)
    return code


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]


async def _until_told(work: Coroutine[Any, Any, int]) -> int:
    """Run until SIGTERM or SIGINT cancels it; clean-up is the work's own `finally`."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    if task is None:
        raise RuntimeError("no task runs")
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await work
    except asyncio.CancelledError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
