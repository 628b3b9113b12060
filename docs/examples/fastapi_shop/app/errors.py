"""What a decision refuses."""


class Refused(Exception):
    """The request cannot be met as things stand; the message says why."""
