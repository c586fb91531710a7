"""Changes of groups and claims, committed: where use cases and the reconciler meet, and nowhere else."""
