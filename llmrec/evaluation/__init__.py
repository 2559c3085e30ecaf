"""Ranking metrics, simulated comparison, significance, tables, plots and the report of a run."""
