"""Measures this package on the machine it runs on: `benchmark <what> --help`."""
