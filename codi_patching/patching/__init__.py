"""What to patch, and the engine that does."""
