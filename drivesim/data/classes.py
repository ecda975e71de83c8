"""The classes of ``scene.CLASSES``, by the words of the datasets that are read."""

import re

# one line a class: words as datasets write them, in lower case, other characters than letters and digits as spaces
WORDS = {
    "car": "car|van|suv|sedan|taxi|vehicle|vehicle car|regular vehicle|large vehicle|passenger car|emergency vehicle"
    "|vehicle emergency police|police car|wagon|caravan|vehicle other|van truck",
    "truck": "truck|vehicle truck|box truck|truck cab|vehicle construction|construction vehicle|pickup truck|tow truck"
    "|pickup|fire truck|vehicle emergency ambulance|ambulance",
    "bus": "bus|vehicle bus|vehicle bus bendy|vehicle bus rigid|articulated bus|school bus|bus rv caravan",
    "trailer": "trailer|vehicle trailer|vehicular trailer|traffic trailer|message board trailer"
    "|traffic light trailer|towed object",
    "motorcycle": "motorcycle|motor|motorbike|motorcyclist vehicle|vehicle motorcycle|moped|scooter",
    "bicycle": "bicycle|bike|vehicle bicycle",
    "rider": "rider|cyclist|motorcyclist|bicyclist|bicyclist rider|wheeled rider|person on vehicle",
    "pedestrian": "pedestrian|person|ped|people|person sitting|human pedestrian adult|human pedestrian child|adult"
    "|child|human pedestrian construction worker|human pedestrian police officer|human pedestrian wheelchair"
    "|human pedestrian stroller|human pedestrian personal mobility|static person|construction worker|other person"
    "|official signaler|stroller|wheelchair|crowd|police officer|personal mobility",
    "other": "other|misc|tram|train|railed vehicle|animal|dog|other vehicle|non motorized vehicle|traffic light"
    "|traffic sign|traffic cone|barrier|distractor|occluder"
    "|occluder on the ground|occluder full|reflection|stop sign|sign|bollard|construction cone"
    "|construction barrel|mobile pedestrian sign|wheeled device|unknown|movable object barrier"
    "|movable object trafficcone|movable object pushable pullable|movable object debris|static object bicycle rack"
    "|mobile pedestrian crossing sign|on road obstacle|other mover|wheeled slow|forklift",
}


TABLE = {word: cls for cls, words in WORDS.items() for word in words.split("|")}


def class_of(word: str) -> str | None:
    """The class that ``word`` means, whatever its case and punctuation; None where it is not known."""
    return TABLE.get(re.sub(r"[^a-z0-9]+", " ", word.lower()).strip())
