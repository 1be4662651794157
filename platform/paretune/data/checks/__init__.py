"""Checking a dataset before any compute is spent: every defect, with its file."""
