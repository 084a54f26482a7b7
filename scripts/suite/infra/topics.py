"""The topics, for servers on which they must be created in advance."""

TOPICS = (
    *("domain-events", "saga-events", "integration-events"),
    *("projector.dead-letters", "notification.dead-letters"),
)
