"""The verbs of the command line, one module each; heavy imports are inside the functions that run them."""
