"""Benches: what ebbtide claims, measured. `make bench` runs all; each file runs alone too."""
