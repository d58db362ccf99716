"""The fast engine: computes what patches change, and nothing else."""
