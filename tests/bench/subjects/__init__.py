"""What Annals is measured against. Each does the same to a task: create it, assign it, complete it."""
