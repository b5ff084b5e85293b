"""Archives that become folders while they arrive."""
