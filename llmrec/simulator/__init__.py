"""Simulated users: fitted behaviour models, their ensembles, their calibration and their quality."""
