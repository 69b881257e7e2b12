"""Studies: a grid of runs that end in one table and one plot."""
