"""Configs: YAML to a frozen schema, with every error found in one pass."""
