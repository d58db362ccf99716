"""Pairs, word problems and the files of a run."""
