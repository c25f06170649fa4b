"""The protocol both ends share; only `sockets` touches the outside."""
