"""Frames from files, whatever kind: found, selected, and decoded on all cores or a cluster."""
