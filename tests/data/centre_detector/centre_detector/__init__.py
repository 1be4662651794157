"""A detector that is not Paretune's: found by its entry point, it shares no code with the built-in ones."""
