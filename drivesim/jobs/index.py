"""``drivesim index``: a folder of clips, or the rendered world, becomes an index."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from fractions import Fraction
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from drivesim import disk, world
from drivesim.data import video
from drivesim.data.annotations import Remarks
from drivesim.data.index import QUARANTINE, Entry, Index, Rows, Writer, whole_folder
from drivesim.data.sources import Recipe, build, load_recipe, measure, rendered
from drivesim.errors import Mistake
from drivesim.scene import Boxes

SPACING = 100_000  # seeds of worlds: those of two values of --seed never meet
WORLD_CRF = 12  # the world's flat colours and thin lines show x264's marks early; its clips are short


def run(
    source: Path,
    out: Path,
    recipe: Path | None = None,
    seed: int = 0,
    labels: Path | None = None,
    form: str | None = None,
    captions: Path | None = None,
) -> Path:
    """Indexes ``source`` into the folder ``out``.

    Args:
        source: a folder of clips, or a recipe (YAML) that says its own root or renders the world.
        recipe: how to read the folder.
        seed: of a rendered world.
        labels: a label file or folder, in the place of the recipe's; ``form`` its format.
        captions: a CSV of paths and captions, in the place of the recipe's.

    Raises:
        Mistake: nothing to index, ``out`` is taken, a wrong recipe.
    """
    source, out = Path(source), Path(out)
    if recipe is None and source.suffix in (".yaml", ".yml"):
        recipe = source
    rules = load_recipe(Path(recipe)) if recipe else Recipe()
    if labels is not None:
        rules = replace(rules, labels=str(Path(labels).resolve()))
    if form is not None:
        rules = replace(rules, format=form)
    if rules.format is not None and not rules.labels:
        raise Mistake("is the format of labels, and none are named", where="--format", mend="add --labels PLACE")
    if rules.labels and rules.kind == "world":
        raise Mistake("a rendered world has exact boxes of its own", where="labels", mend="leave --labels out")
    if captions is not None:
        rules = replace(rules, captions=str(Path(captions).resolve()))
    if rules.captions and rules.kind == "world":
        raise Mistake("a rendered world says itself what it shows", where="captions", mend="leave --captions out")
    remarks = Remarks()
    if rules.kind == "world":
        made = render(rules, out, seed)
    else:
        if recipe is not None and source == recipe:
            source = _root(rules, source)
        made = build(source, out, rules, lambda files: track(files, "indexing", transient=True), remarks)
    _tell(made, remarks)
    return out


def join(sources: Sequence[Path], out: Path) -> Path:
    """Several finished indexes become one in ``out``: every clip with its boxes, and on its side of the split.

    Raises:
        Mistake: one of them is no index, a clip is in two of them, or ``out`` is taken.
    """
    found, held = [Index.open(source) for source in sources], dict[str, Path]()
    for opened in found:
        for entry in opened.entries:
            if entry.clip_id in held:
                what = f"holds a clip that {held[entry.clip_id]} holds, too: {entry.path}"
                raise Mistake(what, where=opened.folder, mend="leave it out of one of the indexes")
            held[entry.clip_id] = opened.folder
    with whole_folder(Path(out)) as part:
        with Writer(part) as writer:
            for opened in found:
                for entry in opened.entries:
                    writer.add(entry, opened.boxes(entry.clip_id))
        lines = b"".join((opened.folder / QUARANTINE).read_bytes() for opened in found)
        disk.write_atomic(part / QUARANTINE, lines)
    made = Index.open(out)
    _tell(made, Remarks())
    for line in _shared(made).lines():
        Console(highlight=False).print(f"[yellow]{escape(line)}[/]")
    return Path(out)


def _shared(made: Index) -> Remarks:
    """Drives that one index trains on and another holds back, where their names are not mere chance."""
    sides, remarks = defaultdict[str, set[str]](set), Remarks()
    for entry in made.entries:
        sides[entry.drive].add(entry.split)
    for drive in (drive for drive, splits in sides.items() if len(splits) > 1):
        remarks.add("drive of that name is trained on in one index and held back in another", drive)
    return remarks


def render(recipe: Recipe, out: Path, seed: int) -> Index:
    """Renders the world's clips into ``out/videos`` and indexes them, with exact boxes and labels."""
    fps, first = recipe.rate or Fraction(1), (recipe.seed + seed) * SPACING
    with whole_folder(out) as part:
        (part / "videos").mkdir()
        tasks = [(part, n, first + n, recipe, fps) for n in range(recipe.clips)]
        workers = min(cpu_count() or 1, len(tasks), 8)
        if len(tasks) < 8:  # starting processes would take longer
            rows = _collect(map(_render_one, tasks), len(tasks))
        else:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                rows = _collect(pool.map(_render_one, tasks, chunksize=2), len(tasks))
        rows.write(part, recipe.val)
    return Index.open(out)


def _collect(made: Iterable[tuple[Entry, Boxes | None]], total: int) -> Rows:
    rows = Rows()
    for entry, boxes in track(made, "rendering the world", total=total, transient=True):
        rows.add(entry, boxes)
    return rows


def _render_one(task: tuple[Path, int, int, Recipe, Fraction]) -> tuple[Entry, Boxes | None]:
    folder, number, seed, recipe, fps = task
    clip = world.render(seed, Fraction(str(recipe.seconds)), fps, recipe.size)
    file = folder / "videos" / f"{number:05d}.mp4"
    with video.Writer(file, recipe.size, fps, crf=WORLD_CRF) as writer:
        writer.write(clip.frames)
    entry = measure(folder.resolve(), file.resolve(), replace(recipe, fps=None, kind="videos"))
    entry = replace(entry, root=".", drive=f"{recipe.name}/{seed}")
    assert clip.labels.night is not None and clip.labels.cars is not None
    return rendered(entry, clip.labels.night, clip.labels.cars), clip.boxes


def _root(rules: Recipe, recipe: Path) -> Path:
    if not rules.root:
        raise Mistake("does not say where the clips are", where=recipe, mend="drivesim index FOLDER --recipe FILE")
    return recipe.parent / rules.root


def _tell(made: Index, remarks: Remarks) -> None:
    say = Console(highlight=False).print
    seconds, drives, count = 0.0, set[str](), Counter[str]()
    for entry in made.entries:
        seconds += entry.seconds
        drives.add(entry.drive)
        count["night"] += bool(entry.night)
        count[entry.split] += 1
        count["synthetic"] += entry.synthetic
        count["labelled"] += entry.labels is not None
        count["captioned"] += entry.caption is not None
    clips = f"{len(made.entries)} clips of {len(drives)} drives, {seconds:.1f} s"
    say(f"{made.folder}: {clips}, {count['night']} at night, {count['val']} held back")
    if count["synthetic"]:
        say(f"[yellow]{count['synthetic']} clips are marked synthetic[/]: they were generated, not filmed")
    if count["labelled"]:
        boxes, tracks = made.count_boxes()
        say(f"{count['labelled']} clips with {boxes} boxes of {tracks} tracks")
    if count["captioned"]:
        say(f"{count['captioned']} clips with a caption")
    for line in remarks.lines():
        say(f"[yellow]labels[/] {escape(line)}")
    lines = (made.folder / QUARANTINE).read_text(encoding="utf-8").splitlines()
    if lines:
        say(f"{len(lines)} files left out, see {made.folder / QUARANTINE}")
