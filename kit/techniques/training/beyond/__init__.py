"""What to expect beyond this machine: models fitted to it, exact counts on more ranks, and advice."""
