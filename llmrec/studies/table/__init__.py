"""One table of every system on one data set: the same events to learn from, the same rows to answer."""
