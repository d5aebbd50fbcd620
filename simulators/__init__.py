"""Plays every device, for demos and tests. Shares the pure codecs with the drivers and nothing above them."""
