"""Commanding a battery safely: modes, their policy and a tariff's schedule. Knows no device and no protocol."""
