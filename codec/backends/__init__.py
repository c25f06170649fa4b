"""How the analysis network is run: one module per runtime."""
