"""The annals command line."""
