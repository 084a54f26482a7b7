"""Live streams: what happens, to whoever looks, from wherever they left off."""
