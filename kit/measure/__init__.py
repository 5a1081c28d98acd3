"""How one comparison is measured. Knows no technique, no notebook, no report."""
