"""Metrics of a patched run's answer, functional and over a grid of cells."""
