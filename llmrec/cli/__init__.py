"""The `llmrec` command."""
