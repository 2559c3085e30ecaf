"""Reports of finished runs: what they hold, how they are kept, put side by side, drawn and written."""
