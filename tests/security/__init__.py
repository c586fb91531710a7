"""What an enemy may try, against the real service as its own process: nothing leaks, nothing falls over."""
