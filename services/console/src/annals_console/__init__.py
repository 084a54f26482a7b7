"""The console: the web page that shows and controls the suite, and the edge in front of the services."""
