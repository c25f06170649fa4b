"""How much time the encoder takes for how few bytes.

| speed | what is done |
|---|---|
| 0 | all that bytes are worth |
| 1 | symbols are coded quickly, and the KLT is fitted to a part of the pixels |
| 2 | and to half of that part |
| 3 | it is turned by fewer blocks of pixels, and steps are half an octave larger |

1 takes about a third of the time, and 6 to 12 % more bytes at equal quality on land, a third more
on open water; 3 takes up to 4 % more than 2. With a rate or a quality as its target the board goes
no further than 2.
"""

from __future__ import annotations

from typing import Final

FASTEST: Final = 3
