"""The engines: each turns token ids into token ids in its own way, behind one interface (engine.py)."""
