"""Serving: a model behind a server over HTTP, and how many requests a second it carries under a latency bound.

Start with `servers/plain.py`, the baseline; each server is a page of its own. `deploy.py` starts them.
"""
