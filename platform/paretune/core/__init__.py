"""Conventions that every other package uses: metrics, errors, records, plug-in tables, images and boxes."""
