"""Which difference can be seen in a given time on this machine as noisy as it is now, and what time one needs."""
