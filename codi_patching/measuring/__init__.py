"""A pair's unpatched, own, control and ceiling runs and their metrics."""
