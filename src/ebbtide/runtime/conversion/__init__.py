"""From a checkpoint to what engines load: once per model version, in a process of its own (convert.py)."""
