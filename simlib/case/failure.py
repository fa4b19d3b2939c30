"""What could not be done although it was asked rightly: one sentence for people, exit status 1."""


class Failure(Exception):
    """The base of the lab's errors about files, processes and hosts: what, where, what to do."""
