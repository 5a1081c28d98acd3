"""Servers, a page each. All take the same body at POST /predict and answer the same JSON; see `protocol.py`."""
