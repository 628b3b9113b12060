"""Hooks: their specifications, the details that they get, the registry of plugins, and their calls."""
