"""The processes: an instrument, the flight side, the ground side, and the link between."""
