"""Errors the codec raises on purpose.

CodecError
├── TileError            the tile cannot be coded: shape, type, or what it says of itself
├── BackendError         what was asked for to run the network is not there, or has failed
├── TileFileError        a file on disk does not hold a tile this build can read
├── BundleError          the model bundle cannot be used
│   ├── BundleAnswerError    it does not give the answer that the bundle knows
│   ├── BundleDigestError    its bytes are not the ones its name promises
│   ├── BundleTensorError    a tensor is missing or has another shape
│   └── BundleVersionError   a later build wrote it
└── BitstreamError       the bytes handed to the decoder do not decode
    ├── TruncatedError
    ├── ChecksumError
    ├── FrameVersionError    the frame is of a version this build does not read
    ├── FrameFieldError      a field of the header is missing, of another type or out of range
    ├── PayloadError         the entropy-coded payload does not decode to what the header says
    └── WrongModelError      the frame names a model other than the one at hand
"""

from __future__ import annotations


class CodecError(Exception):
    """Base of every error below; catch this at the edge of the codec."""


class TileError(CodecError):
    """The tile cannot be coded: its shape, its type, or what it says of itself."""


class BackendError(CodecError):
    """What was asked for to run the network is not there, or has failed."""


class TileFileError(CodecError):
    """A file on disk does not hold a tile this build can read."""


class BundleError(CodecError):
    """The model bundle cannot be used."""


class BundleAnswerError(BundleError):
    """The model does not give the answer that its bundle knows."""


class BundleDigestError(BundleError):
    """The bundle's bytes are not the ones its name promises."""


class BundleTensorError(BundleError):
    """A tensor of the bundle is missing or has another shape."""


class BundleTruncatedError(BundleError):
    """The end of the bundle's file is missing."""


class BundleVersionError(BundleError):
    """A later build wrote the bundle."""


class BitstreamError(CodecError):
    """The bytes handed to the decoder do not decode."""


class TruncatedError(BitstreamError):
    """Fewer bytes arrived than the layout promises."""

    def __init__(self, needed_bytes: int, got_bytes: int) -> None:
        super().__init__(needed_bytes, got_bytes)
        self.needed_bytes, self.got_bytes = needed_bytes, got_bytes

    def __str__(self) -> str:
        return f"needed {self.needed_bytes} bytes, got {self.got_bytes}"


class ChecksumError(BitstreamError):
    """The bytes do not match their CRC32C."""


class FrameVersionError(BitstreamError):
    """The frame is of a version this build does not read."""


class FrameFieldError(BitstreamError):
    """A field of the frame's header is missing, of another type or out of range."""


class PayloadError(BitstreamError):
    """The entropy-coded payload does not decode to what the header says."""


class WrongModelError(BitstreamError):
    """The frame names a model other than the one at hand."""
