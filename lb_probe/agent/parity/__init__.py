"""What a node is, for its partner to compare."""
