"""The topics, for the servers that want to know them beforehand."""

TOPICS = (
    *("domain-events", "saga-events", "integration-events"),
    *("projector.dead-letters", "notification.dead-letters"),
)
