"""The results folder: how a run is described, kept, written and read. All else derives from it."""
