"""Deliveries: who is told of what, over which channel, and what came of it."""
