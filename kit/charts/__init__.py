"""Draws records and a technique's own charts with matplotlib, in one style."""
