"""Serving: a model behind a server over HTTP. Start with `servers/plain.py`, the baseline; `deploy.py` starts all."""
