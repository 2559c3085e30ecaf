"""Networks of the behaviour models that read features or the sequence of a history."""
