"""The flight side: from tile messages to packets on the downlink."""
