"""The machine: cores, GPUs, locks, folders for compiled programs."""
