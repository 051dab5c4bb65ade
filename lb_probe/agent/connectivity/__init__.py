"""What one node reaches of another: ports, TLS, SSH beyond its greeting, each direction by name."""
