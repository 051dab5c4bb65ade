"""Replication: the operator's own commands, at the right time and in the right direction."""
