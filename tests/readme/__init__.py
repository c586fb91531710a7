"""The commands of the README and the quickstart, run as a reader would, on a private copy of this machine."""
