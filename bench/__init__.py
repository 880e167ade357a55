"""Benches: what ebbtide claims, measured. `make bench` runs all and prints a table; each file runs alone too."""
