"""The engine that asks nodes for their pages, and its schedule."""
