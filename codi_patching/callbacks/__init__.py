"""What happens around a run: progress, files, figures."""
