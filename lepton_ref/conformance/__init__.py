"""The suite that a backend's author runs against the reference.

Nothing is here yet. It will hold the checks of each op: equal bits where the precision is defined by one rounding, a
proven bound where it is the backend's own.
"""
