"""Offline: fit, prune, calibrate, export and judge the bundles that fly."""
