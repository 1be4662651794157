"""The step `quantize`: integers or 16-bit floats in place of 32-bit floats."""
