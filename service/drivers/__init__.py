"""One package a kind of machine, all behind `base`; a driver never imports the store, the use cases or another one."""
