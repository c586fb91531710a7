"""Outside clients against a running service: programs and libraries that know nothing of its code."""
