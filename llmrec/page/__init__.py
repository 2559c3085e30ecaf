"""A page to try a run in the browser: what it recommends, before and after, and how its training goes."""
