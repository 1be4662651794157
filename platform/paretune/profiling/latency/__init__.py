"""Latency of artefacts: alone, compared with each other, and beside a reference."""
