"""The lamp driver: codec, link, driver."""
