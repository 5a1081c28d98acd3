"""Start ranks by torch's own launcher, on one machine or several, give them orders, and leave nothing behind."""
