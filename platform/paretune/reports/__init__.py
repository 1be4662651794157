"""Text, tables, pictures and pages."""
