"""The aggregates, which decide commands, and the events that they decide. Pure."""
