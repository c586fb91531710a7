"""Why a gang does not fit, counted host by host, and what would make it fit."""
