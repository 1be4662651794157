"""Checks that an artefact computes what its network does."""
