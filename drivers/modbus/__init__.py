"""The modbus driver: codec, link, driver."""
