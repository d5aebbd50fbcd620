"""The seam's data: immutable, with identities that are never alike and errors that say what to do."""

from dataclasses import FrozenInstanceError

import pytest

from drivers.api import (
    Commands,
    ConfigError,
    Describes,
    DriverError,
    Event,
    Hears,
    LinkError,
    MalformedError,
    RefusedError,
    Reports,
    Sample,
)
from drivers.sine import create


def test_no_two_events_share_an_identity():
    assert len({Event("tags", "tag_arrived", 1).id for _ in range(1000)}) == 1000
    assert len(Event("tags", "tag_arrived", 1).id) == 32


def test_samples_and_events_cannot_be_changed():
    for item in (Sample("meter", 1, {}), Event("meter", "device_lost", 1)):
        with pytest.raises(FrozenInstanceError):
            item.device = "other"


@pytest.mark.parametrize("error", [LinkError, RefusedError, MalformedError])
def test_every_error_of_the_seam_is_a_driver_error(error):
    assert issubclass(error, DriverError)


def test_a_configuration_error_says_key_value_problem_and_remedy():
    error = ConfigError("port", "no such port", "plug the dongle in", "/dev/ttyUSB9")
    assert str(error.under("drivers.meter")) == "drivers.meter.port = '/dev/ttyUSB9': no such port; plug the dongle in"
    assert str(ConfigError("", "not YAML", "mend it").under("drivers.meter")) == "drivers.meter: not YAML; mend it"


def test_what_a_driver_offers_is_seen_from_its_methods_alone():
    sine = create(type("Context", (), {"name": "wave", "clock": None})(), {})
    assert not any(isinstance(sine, offer) for offer in (Describes, Reports, Commands, Hears))
