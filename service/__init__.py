"""The Corral control plane: stores intents, places gangs, drives hypervisors, streams what happens."""
