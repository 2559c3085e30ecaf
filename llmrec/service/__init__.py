"""A recommender behind an API (docs/serving.md): requests in batches, feedback into the event log."""
