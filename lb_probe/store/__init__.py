"""Durable homes of the decision."""
