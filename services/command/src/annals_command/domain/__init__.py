"""Tasks and members: what they decide, and the events they decide by. Pure."""
