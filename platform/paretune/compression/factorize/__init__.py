"""The step `factorize`: low-rank chains in place of large layers."""
