"""Where functions run: Ray, on this machine or on a cluster."""
