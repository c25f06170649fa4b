"""The codec: a tile of samples in, frames of bytes out, and back."""
