"""Deliveries: who is told of what, over which channel, and with what outcome."""
