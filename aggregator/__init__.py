"""Stores, acknowledges, shows and serves what gateways send. Knows the wire contract and no device."""
