"""The ble_tags driver: codec, link, driver."""
