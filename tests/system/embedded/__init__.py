"""What one running suite is enough for: it is started for all of these tests, and each leaves it well."""
