"""Text enrichment: profiles from histories, descriptions from attributes and reviews, written and checked."""
