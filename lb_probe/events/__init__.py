"""What happened, told to people and machines: log and metrics."""
