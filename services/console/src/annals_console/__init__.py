"""The console: the web page that shows and steers the suite, and the edge before the services."""
