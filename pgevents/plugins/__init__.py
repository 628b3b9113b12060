"""Bundled plugins, made of public hooks only."""
