"""Caching: answers stored in front of real work. Read `variants.answer` first, then a page of `policies` and `stores`.

A trace contains requests in their order, a policy chooses what to keep, a store keeps it, work computes the rest.
"""
