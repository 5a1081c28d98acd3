"""Tuning: searches for a model's best setting, alone and with many workers, and what they are worth."""
