"""The route_b driver: codec, link, driver."""
