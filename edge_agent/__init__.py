"""The agent of one box: stamps, keeps and publishes what its drivers read. Knows the seam, never a device."""
