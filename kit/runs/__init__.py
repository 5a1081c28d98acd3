"""Stored runs: found, read without trust, and chosen from. Knows records and nothing else."""
