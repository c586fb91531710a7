"""The configuration file: its schema, its values, and every mistake in it by the path of the key."""
