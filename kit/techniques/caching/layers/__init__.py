"""Layers: where in a system a cache can stand, each in front of real work.

Read first: `work.py` (what is cached), `cached.py` (with and without a cache, as variants of a comparison) and
`serving.py` (what users wait for at an arrival rate, and what a cache saves). `dataset.py` is for who reads tables,
`prefix.py` for the server of a language model, simulated; `staleness.py` tells what a time to live costs.
"""
