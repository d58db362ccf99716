"""Training a small CODI model from nothing."""
