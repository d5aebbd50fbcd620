"""Everything that talks to a device. Knows the seam (`drivers.api`); knows no MQTT, no SQLite and no agent."""
