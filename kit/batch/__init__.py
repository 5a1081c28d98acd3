"""Executes notebooks as runs: parameters, plans, folders, resume. Knows no technique."""
