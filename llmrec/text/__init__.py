"""States as text: templates, token budget, untrusted text, free prompts."""
