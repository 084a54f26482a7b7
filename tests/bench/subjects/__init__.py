"""What Annals is measured against. Each subject creates, assigns and completes tasks."""
