"""Real data on which off-policy estimates are held against the truth; eval/off_policy.py runs them."""
