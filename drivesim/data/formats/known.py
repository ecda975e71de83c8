"""All formats by name, and which of them a file is of."""

from pathlib import Path

from drivesim.data.formats import Format, argoverse, bdd100k, coco, csv, cvat, dgp, kitti, mot, nuscenes
from drivesim.errors import Mistake, beside, nearest

FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT for module in (bdd100k, kitti, cvat, coco, mot, csv, nuscenes, argoverse, dgp)
}

WRITTEN = tuple(form for form in FORMATS.values() if form.write)


def named(name: str, where: str = "--format") -> Format:
    """Raises:
    Mistake: no such format, with the nearest one.
    """
    if name not in FORMATS:
        raise Mistake(f"no label format '{name}'", where=where, mend=nearest(name, FORMATS))
    return FORMATS[name]


def written(name: str, where: str = "--format") -> Format:
    """Raises:
    Mistake: no such format, or one that is only read.
    """
    form = named(name, where)
    if form.write is None:
        able = ", ".join(each.name for each in WRITTEN)
        raise Mistake(f"{form.title} is only read", where=where, mend=f"formats that are written: {able}")
    return form


def of(place: Path, name: str | None = None) -> Format:
    """The format ``name``, or the one that claims ``place``.

    Raises:
        Mistake: nothing there, no format claims it, or several do.
    """
    if not place.exists():
        raise Mistake("no such file or folder of labels", where=place, mend=beside(place))
    if name is not None:
        return named(name)
    claiming = [form for form in FORMATS.values() if form.claims(place)]
    if len(claiming) == 1:
        return claiming[0]
    what = "may be " + " or ".join(form.name for form in claiming) if claiming else "is of no format that is known"
    raise Mistake(f"{what}", where=place, mend=f"say which with --format: {', '.join(FORMATS)}")
