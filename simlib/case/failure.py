"""A valid request that could not be carried out: one sentence for people, exit status 1."""


class Failure(Exception):
    """The base of the lab's errors about files, processes and hosts: what, where, what to do."""
