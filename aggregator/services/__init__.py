"""What the aggregator computes from its store, one service a file."""
