"""The queries on the read models and on the store."""
