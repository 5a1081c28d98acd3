"""Caching: what a cache is worth in front of real work, and how near its policy comes to the best possible.

A trace says what was asked for, in its order; a policy says what to keep; a curve says what that yields at every size;
the advice says what it is worth.
"""
