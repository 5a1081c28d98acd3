"""Two sets of runs: what became faster, slower, stayed the same, or cannot be told. Reads records, executes nothing."""
