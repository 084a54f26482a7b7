"""Runs the suite on one machine: the servers it needs, its sidecars and its services."""
