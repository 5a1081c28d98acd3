"""Hyperparameter search: samplers and pruners by time to target, held-out worth, parallel workers."""
