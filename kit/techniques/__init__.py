"""The things that are compared: plain functions, one folder a technique."""
