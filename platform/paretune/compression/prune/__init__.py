"""The step `prune`: removal of whole channels."""
