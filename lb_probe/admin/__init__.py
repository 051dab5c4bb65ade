"""The operator HTTP API."""
