"""Live streams: clients get events as they happen, and continue where they left off."""
