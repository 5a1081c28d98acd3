"""The machine: what it is, what it can do, and which capabilities work on it right now."""
