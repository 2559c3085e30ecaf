"""The language model as a policy over a closed catalogue."""
