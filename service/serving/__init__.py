"""What a distributed model needs to run: the rendezvous documents that its members are given."""
