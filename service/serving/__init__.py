"""What makes machines a model service: start commands, documents, records, and the supervisor of guests. Pure."""
