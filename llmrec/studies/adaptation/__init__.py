"""Quick adaptation on generated worlds: a domain that nobody was trained on, and new people turn by turn."""
