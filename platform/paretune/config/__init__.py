"""What people write: job, recipe and plan."""
