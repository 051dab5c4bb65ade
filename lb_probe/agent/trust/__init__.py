"""Whom an agent trusts, and how agents talk: a key of its own, pinned peers, mutual TLS."""
