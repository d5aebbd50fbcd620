"""What the town tells a gateway: acknowledgements, commands, alerts and tags. Carries nothing out itself."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from drivers.api import MalformedError
from edge_agent import wire
from edge_agent.batches import Key
from edge_agent.mqtt import Message

log = logging.getLogger(__name__)

OnCommand = Callable[[str, wire.Command], Awaitable[wire.Response]]
OnTown = Callable[[str, bytes], None]


class Downlink:
    """Sorts incoming messages; any bytes may come, and whatever does not fit is counted and dropped."""

    def __init__(self, gateway: str, area: str, on_ack: Callable[[list[Key]], None], on_town: OnTown | None) -> None:
        self._gateway = gateway
        self._area = area
        self._on_ack = on_ack
        self._on_town = on_town
        self.on_command: Callable[[str, wire.Command], None] | None = None
        self.malformed = 0
        self.retained_commands = 0

    def subscriptions(self) -> list[str]:
        """Return the topics to ask for."""
        own = [wire.down_topic(self._gateway, *rest) for rest in (("ack",), ("command", "+"), ("tags",))]
        return [*own, wire.down_topic("all", "alert", self._area)] if self._area else own

    def hear(self, message: Message) -> None:
        """Take a message in; returns at once."""
        try:
            self._sort(message)
        except MalformedError as error:
            level = logging.DEBUG if self.malformed else logging.WARNING
            log.log(level, "malformed, on %.80s: %.200s", message.topic, error)
            self.malformed += 1

    def _sort(self, message: Message) -> None:
        match message.topic.split("/")[2:]:
            case [self._gateway, "ack"]:
                ack = wire.decode(message.payload, wire.Ack)
                self._on_ack([(ack.epoch, seq) for seq in ack.seqs])
            case [self._gateway, "command", name] if message.retained:
                self.retained_commands += 1
                log.warning("the command %.40s is retained, so nobody knows how old it is: refused", name)
            case [self._gateway, "command", name]:
                self._command(name, wire.decode(message.payload, wire.Command))
            case [self._gateway, "tags"] if self._on_town:
                self._on_town("tags", message.payload)
            case ["all", "alert", _] if self._on_town:
                self._on_town("alert", message.payload)

    def _command(self, name: str, command: wire.Command) -> None:
        if not _is_plain_id(command.id):
            raise MalformedError(f"the id {command.id[:80]!r} cannot stand in a topic")
        if self.on_command is not None:
            self.on_command(name, command)


def _is_plain_id(text: str) -> bool:
    return 0 < len(text) <= 64 and text.isascii() and all(letter.isalnum() or letter in "-_." for letter in text)
