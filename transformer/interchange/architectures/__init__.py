"""Architectures of other libraries: configuration, net and table of each model type."""
