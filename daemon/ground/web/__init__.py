"""The web page of the ground: what comes, as it comes, for people."""
