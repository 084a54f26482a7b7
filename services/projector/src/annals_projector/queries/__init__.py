"""The queries: what can be asked of the read models and of the store."""
