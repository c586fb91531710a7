"""The commands of the README and the quickstart run as a reader would, and the shell scripts that these use."""
