"""`make demo`: fills a running suite with a believable week."""
