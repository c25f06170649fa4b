"""The ground side: from packets back to cubes in files."""
