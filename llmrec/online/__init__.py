"""Learning while serving: the event log, exploration, versions of the policy, updates and drift (docs/online.md)."""
