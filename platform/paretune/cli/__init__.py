"""The verbs of the command line: each module adds its own with ``add(verbs)``; heavy imports wait until one runs."""
