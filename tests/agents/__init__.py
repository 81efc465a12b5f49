"""Agents of real frameworks with scripted models, which call the tool a hundred times and are killed meanwhile."""
