"""Buckets and objects: the embedded object store."""
