"""Statistics and figures, as pure functions."""
