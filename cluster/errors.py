"""What can go wrong in getting a cluster."""


class ClusterError(Exception):
    """There is no cluster to run on; the message says why and what to do."""
