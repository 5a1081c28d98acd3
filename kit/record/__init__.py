"""The record: what one comparison found, as a typed document that everything else is computed from."""
