"""Labels that a horizontal flip turns into another one.

Something-Something V2 names sides in its templates ("Pushing something from left to right"), Jester
in its gestures ("Swiping Left", "Turning Hand Clockwise"). The classes of Kinetics, UCF101, HMDB51,
AVA and Diving48 name none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Between letters of a name that is written LikeThis; "_" and "-" divide words as a space does.
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SIDED = re.compile(
    r"(?<![a-z])((left|right)(wards?)?|((counter|anti)[ _-]?)?clockwise)(?![a-z])", re.IGNORECASE
)


def flip_changes_labels(labels: Iterable[str]) -> bool:
    """Whether a label names a side or a sense of turning, which a horizontal flip makes wrong.

    Args:
        labels: names of the classes.
    """
    return any(_SIDED.search(_HUMP.sub(" ", label)) for label in labels)
