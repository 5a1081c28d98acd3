"""Real searches by many workers on one storage: processes here, on other machines, or tasks of a Dask cluster."""
