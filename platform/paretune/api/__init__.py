"""The Python API: the functions that the command line calls too, and the front of a sweep as an object.

Messages of errors name the options of the command line; an argument has the name of its option.
"""
