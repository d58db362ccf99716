"""The questions that every comparison answers, a file for each family of them."""
