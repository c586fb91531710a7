"""The README's and the quickstart's commands, run as a reader would run them, on a private copy of this machine's libvirt."""
