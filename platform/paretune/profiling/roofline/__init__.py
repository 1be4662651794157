"""What bounds an artefact by the roofline model, and what to try next."""
