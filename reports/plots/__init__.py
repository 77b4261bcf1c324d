"""Pictures of stored runs."""
