"""The pure core: facts go in, the changed group and the effects to run come out. No I/O, no clock, no store."""
