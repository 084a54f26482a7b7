"""The notification service: tells people and systems what happened, and what is due."""
