"""Forty files that want more than to be read, each put where it can enter by the command.

``make`` writes the file below ``trap.inside`` and gives the words of the command; ``says`` is what the command answers.
"""

import io
import json
import os
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from drivesim import config, disk, weights
from drivesim.data.index import Index
from drivesim.data.sources import build
from drivesim.rollout.journal import Journal
from drivesim.rollout.settings import RolloutConfig
from tests.data.bad import BAD, encode
from tests.data.formats import test_nuscenes
from tests.data.formats.test_bad import GOOD, WRITERS
from tests.data.numbered import write

from .trap import Trap

ESCAPE = "\x1b]0;owned\x07\x1b[31m"
SCRIPT = "<script>alert(1)</script>"
RATE = Fraction(10)


@dataclass(frozen=True)
class Hostile:
    """
    Args:
        status: of the command; where it is 0, what is hostile was left out or is harmless.
        says: words on stderr where the status is 2, else in ``quarantine.jsonl``, on stdout or on the page.
        mocked: ``generate`` gets models without networks, so that it comes to the file.
    """

    number: int
    name: str
    make: Callable[[Trap], list[str]]
    says: str
    status: int = 2
    mocked: bool = False


class Payload:
    """Makes the canary when it is unpickled, by a function that no reader of tensors has a use for."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.canary),)


def _clips(trap: Trap, count: int = 1) -> Path:
    folder = trap.inside / "clips"
    for n in range(count):
        write(folder / f"good-{n}.mp4", 20, RATE, first=20 * n)
    return folder


def _indexed(trap: Trap, *more: str) -> list[str]:
    return ["index", str(trap.inside / "clips"), "--out", str(trap.inside / "index"), *more]


def _labels(trap: Trap, name: str, content: str | bytes) -> list[str]:
    """Labels of one good clip that is called ``drive``."""
    write(trap.inside / "clips" / "drive.mp4", 20, RATE)
    file = trap.inside / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return _indexed(trap, "--labels", str(file))


def _scored(trap: Trap) -> list[str]:
    """``evaluate`` of the folder with the hostile file against one without."""
    for n in range(3):
        write(trap.inside / "clips" / f"{n}.mp4", 40, RATE, first=n)
        write(trap.inside / "made" / f"{n}.mp4", 40, RATE, first=20 + n)
    cache = ["--cache", str(trap.inside / "cache"), "--no-controls", "--fps", "10", "--device", "cpu"]
    return ["evaluate", str(trap.inside / "clips"), str(trap.inside / "made"), *cache, "--out", str(trap.inside / "o")]


def _convert(file: Path) -> list[str]:
    return ["weights", "convert", str(file), "--out", str(file.with_name("out.safetensors"))]


def _generate(trap: Trap, *more: str) -> list[str]:
    return ["generate", "--weights", str(trap.inside), "--out", str(trap.inside / "run"), "--device", "cpu", *more]


# --- pickles ----------------------------------------------------------------------------------------------------------


def _ckpt(trap: Trap) -> list[str]:
    file = trap.inside / "model.ckpt"
    torch.save({"state_dict": Payload(trap.canary)}, file)
    return _convert(file)


def _extractor(trap: Trap) -> list[str]:
    words, file = _scored(trap), trap.inside / "i3d.pt"
    torch.save(Payload(trap.canary), file)
    return [*words, "--protocol", "styleganv", "--extractor", str(file)]


def _old(trap: Trap) -> list[str]:
    file = trap.inside / "model.pth"
    file.write_bytes(pickle.dumps(Payload(trap.canary), protocol=0))
    return ["weights", "check", str(file)]


def _disguised(trap: Trap, name: str = "model.safetensors") -> list[str]:
    (trap.inside / name).write_bytes(pickle.dumps(Payload(trap.canary)))
    return ["weights", "check", str(trap.inside / name)]


def _as_stage(trap: Trap) -> list[str]:
    _disguised(trap, "autoencoder.safetensors")
    return _generate(trap)


def _program(trap: Trap) -> list[str]:
    """A TorchScript archive whose names of tensors are a program."""
    file = trap.inside / "program.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch would rather that nobody made these any more
        torch.jit.script(torch.nn.Linear(2, 2)).save(file)
    with zipfile.ZipFile(file) as opened:
        content = {entry: opened.read(entry) for entry in opened.namelist()}
    with zipfile.ZipFile(file, "w") as opened:
        for name, data in content.items():
            bad = name.endswith("/data.pkl")
            opened.writestr(name, pickle.dumps(Payload(trap.canary), protocol=2) if bad else data)
    return _convert(file)


def _objects(trap: Trap) -> list[str]:
    """A latent cache whose numbers are objects."""
    from drivesim.data.latent_writer import LatentWriter
    from drivesim.data.latents import About

    folder, index = trap.inside / "latents", trap.inside / "index"
    build(_clips(trap), index)
    folder.mkdir()
    header = weights.Header("autoencoder", {}, latent={"mean": [0.0] * 3, "std": [1.0] * 3})
    sha = weights.save(trap.inside / "autoencoder.safetensors", {}, header)
    with LatentWriter(folder, About("0" * 64, sha, (64, 128), "10", 1, "32", (6, 8, 16))) as writer:
        writer.add(Index.open(index).entries[0], np.zeros((20, 6, 8, 16), np.float32), RATE, Fraction(0))
    np.save(folder / "000000.npy", np.array([Payload(trap.canary)] * 20, object), allow_pickle=True)
    out = ["--device", "cpu", "--out", str(trap.inside / "out")]
    return ["train", "image", f"cache={folder}", f"autoencoder={trap.inside / 'autoencoder.safetensors'}", *out]


def _checkpoint(trap: Trap) -> list[str]:
    out, index = trap.inside / "out", trap.inside / "index"
    build(_clips(trap), index)
    (out / "checkpoints").mkdir(parents=True)
    torch.save({"drivesim": Payload(trap.canary)}, out / "checkpoints" / "step-00000003.ckpt")
    (out / "config.yaml").write_text("{}\n")
    return ["train", "autoencoder", f"index={index}", "--resume", "--device", "cpu", "--out", str(out)]


# --- playlists and places ---------------------------------------------------------------------------------------------


def _concat(trap: Trap) -> list[str]:
    (_clips(trap) / "list.mp4").write_text(f"ffconcat version 1.0\nfile {trap.video}\n")
    return _indexed(trap)


def _hls(trap: Trap) -> list[str]:
    words = _scored(trap)
    (trap.inside / "clips" / "hls.mp4").write_text(f"#EXTM3U\n#EXTINF:9,\n{trap.url}/a.ts\n#EXT-X-ENDLIST\n")
    return words


def _dash(trap: Trap) -> list[str]:
    file = trap.inside / "dash.mp4"
    place = f"<BaseURL>{trap.url}/</BaseURL><SegmentTemplate media='a' initialization='b' duration='1'/>"
    inner = f"<Period><AdaptationSet mimeType='video/mp4'><Representation id='1' bandwidth='1'>{place}"
    file.write_text(f"<?xml version='1.0'?><MPD type='static' mediaPresentationDuration='PT9S'>{inner}")
    return _generate(trap, "--opening", f"{file}@0", "--minutes", "0.05")


def _dref(trap: Trap) -> list[str]:
    """An mp4 whose pictures are said to lie in another file, by an alias as QuickTime writes it."""
    file = encode(_clips(trap) / "elsewhere.mov", count=20)
    data = file.read_bytes()
    path = os.fsencode(trap.video)
    alias = struct.pack(">IHH", 0, 150, 2) + b"\0" * 142  # an alias record of version 2, its fixed part
    alias += struct.pack(">HH", 2, len(path)) + path + b"\0" * (len(path) % 2) + struct.pack(">HH", 0xFFFF, 0)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    at = data.index(b"dref") - 4
    (length,) = struct.unpack(">I", data[at : at + 4])
    table = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    out = bytearray(data[:at] + table + data[at + length :])
    more = len(table) - length
    for atom in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        place = (out.rindex(atom) if atom == b"moov" else out.index(atom, out.rindex(b"moov"))) - 4
        (size,) = struct.unpack(">I", out[place : place + 4])
        out[place : place + 4] = struct.pack(">I", size + more)
    file.write_bytes(out)
    return _indexed(trap)


def _http_clip(trap: Trap) -> list[str]:
    (trap.inside / "s.yaml").write_text(f"opening: {{clip: '{trap.url}/a.mp4'}}\n")
    return ["scenario", "check", str(trap.inside / "s.yaml")]


def _protocol(trap: Trap) -> list[str]:
    return _generate(trap, "--opening", f"concat:{trap.video}|{trap.video}", "--minutes", "0.05")


def _http_weights(trap: Trap) -> list[str]:
    return ["weights", "check", f"{trap.url}/model.safetensors"]


# --- bombs ------------------------------------------------------------------------------------------------------------


def _bomb(trap: Trap) -> list[str]:
    next(bad for bad in BAD if bad.name == "decompression bomb").make(_clips(trap))
    return _indexed(trap)


def _large_png(trap: Trap) -> list[str]:
    """60,000 x 60,000 black pixels in 440 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    side, packer = 60_000, zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + side // 8)) for _ in range(side)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    for n in range(3):
        (trap.inside / "clips" / "frames").mkdir(parents=True, exist_ok=True)
        (trap.inside / "clips" / "frames" / f"{n:03d}.png").write_bytes(data)
    (trap.inside / "recipe.yaml").write_text("kind: images\nfps: 10\n")
    return _indexed(trap, "--recipe", str(trap.inside / "recipe.yaml"))


def _zip(entries: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in entries.items():
            opened.writestr(name, data)
    return out.getvalue()


def _zip_bomb(trap: Trap) -> list[str]:
    return _labels(trap, "labels.zip", _zip({"annotations.xml": b" " * (200 << 20)}))


def _pt_bomb(trap: Trap) -> list[str]:
    file = trap.inside / "bomb.pt"
    file.write_bytes(_zip({"a/data.pkl": bytes(200 << 20), "a/version": b"3\n", "a/data/0": b""}))
    return _convert(file)


def _aliases(trap: Trap) -> list[str]:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (trap.inside / "s.yaml").write_text("\n".join(lines))
    return ["scenario", "check", str(trap.inside / "s.yaml")]


def _deep_yaml(trap: Trap) -> list[str]:
    (trap.inside / "c.yaml").write_text("index: " + "[" * 5000 + "]" * 5000)
    return ["train", "autoencoder", str(trap.inside / "c.yaml"), "--device", "cpu", "--out", str(trap.inside / "out")]


def _laughs(trap: Trap) -> list[str]:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    return _labels(trap, "l.xml", f'<!DOCTYPE x [<!ENTITY l0 "lol">{entities}]><annotations>&l9;</annotations>')


def _deep_json(trap: Trap) -> list[str]:
    return _labels(trap, "l.json", '{"images": [], "videos": ' + "[" * 100_000 + ', "image_id": 1, "file_name": 1}')


def _huge_header(trap: Trap) -> list[str]:
    (trap.inside / "a.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}" * 100)
    return ["weights", "check", str(trap.inside / "a.safetensors")]


def _many_boxes(trap: Trap) -> list[str]:
    boxes = "".join(f'<box frame="{n}" xtl="1" ytl="1" xbr="9" ybr="9" outside="0"/>' for n in (0, 999_999))
    tracks = f'<track id="1" label="car">{boxes}</track>' * 50
    size = "<original_size><width>128</width><height>64</height></original_size>"
    meta = f"<meta><task><name>elsewhere</name>{size}</task></meta>"
    return _labels(trap, "l.xml", f"<annotations>{meta}{tracks}</annotations>")


# --- traversals -------------------------------------------------------------------------------------------------------


def _nuscenes(trap: Trap) -> list[str]:
    tables = test_nuscenes.drive(test_nuscenes.HALF_A_SECOND, test_nuscenes.CAR)
    for row in tables["sample_data"]:
        row["filename"] = "../../outside/secret.png"
    test_nuscenes.written(trap.inside / "clips" / "v1.0-mini", tables)
    (trap.inside / "recipe.yaml").write_text("kind: tables\nlabels: .\n")
    return _indexed(trap, "--recipe", str(trap.inside / "recipe.yaml"))


def _dgp(trap: Trap) -> list[str]:
    write(trap.inside / "clips" / "drive.mp4", 20, RATE)
    folder = trap.inside / "scene"
    (folder / "ontology").mkdir(parents=True)
    (folder / "ontology" / "o.json").write_text('{"items": []}')
    image = {"height": 64, "width": 128, "annotations": {"0": "../../outside/secret.json"}}
    datum = {"id": {"name": "drive", "timestamp": "2019-05-15T00:38:58.415230Z"}, "datum": {"image": image}}
    (folder / "scene_a.json").write_text(json.dumps({"ontologies": {"0": "o"}, "data": [datum]}))
    return _indexed(trap, "--labels", str(folder))


def _link(trap: Trap) -> list[str]:
    (_clips(trap) / "link.mp4").symlink_to(trap.video)
    return _indexed(trap)


def _scored_link(trap: Trap) -> list[str]:
    words = _scored(trap)
    (trap.inside / "clips" / "link.mp4").symlink_to(trap.video)
    return words


def _picture_link(trap: Trap) -> list[str]:
    import cv2

    folder = trap.inside / "clips" / "frames"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "000.png"), np.zeros((64, 64, 3), np.uint8))
    (folder / "001.png").symlink_to(trap.outside / "secret.png")
    (trap.inside / "recipe.yaml").write_text("kind: images\nfps: 10\n")
    return _indexed(trap, "--recipe", str(trap.inside / "recipe.yaml"))


def _label_link(trap: Trap) -> list[str]:
    write(trap.inside / "clips" / "drive.mp4", 20, RATE)
    (trap.inside / "labels").mkdir()
    (trap.inside / "labels" / "a.json").symlink_to(trap.text)
    return _indexed(trap, "--labels", str(trap.inside / "labels"), "--format", "coco")


def _index_path(trap: Trap) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = trap.inside / "index"
    build(_clips(trap), index)
    table = pq.read_table(index / "files.parquet")
    at = table.schema.get_field_index("path")
    table = table.set_column(at, table.schema.field(at), pa.array(["../../outside/secret.mp4"]))
    pq.write_table(table, index / "files.parquet")
    out = ["--device", "cpu", "--out", str(trap.inside / "out")]
    return ["train", "autoencoder", f"index={index}", *out]


def _shards(trap: Trap) -> list[str]:
    content = {"weight_map": {"a": "../../outside/secret.json"}}
    folder = trap.inside / "unet"
    folder.mkdir()
    (folder / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(content))
    return ["weights", "check", str(folder)]


def _journal(trap: Trap) -> list[str]:
    """A run to branch from whose windows are said to lie elsewhere: they would be copied, also to elsewhere."""
    run = trap.inside / "theirs"
    run.mkdir()
    plan = {"hash": "0" * 64, "fps": "15/8", "total": 20, "plan": {}, "fixed": {"seed": 1, "noise": "x"}}
    (run / "plan.json").write_text(json.dumps(plan))
    (run / "config.yaml").write_text(config.to_yaml(RolloutConfig()))
    (run / "scenario.yaml").write_text("seconds: 10\n")
    (run / "labels.parquet").touch()
    journal, secret = Journal(run, "0" * 64), "../../outside/secret.json"
    for stage, more in (("keyframes", {}), ("segment", {"frames": [0, 5]})):
        entry = {"n": 0, "stage": stage, "first": 0, "last": 5, "file": secret, "sha256": disk.sha256(trap.text)}
        journal._line({**entry, **more, "previous": journal._previous(journal.lines)})
    return _generate(trap, "--from", str(run), "--at", "5", "--seed", "2")


def _parent(trap: Trap) -> list[str]:
    run = trap.inside / "run"
    write(run / "video.mp4", 20, RATE)
    (trap.outside / "run.json").write_text('{"from": {"run": "/", "second": 7}}')
    (run / "run.json").write_text(json.dumps({"from": {"run": str(trap.outside), "second": 1}}))
    return ["report", str(run)]


def _recipe(trap: Trap) -> list[str]:
    _clips(trap)
    (trap.inside / "recipe.yaml").write_text("root: clips\nlabels: ../../outside/secret.json\n")
    return ["index", str(trap.inside / "recipe.yaml"), "--out", str(trap.inside / "index")]


def _slip(trap: Trap) -> list[str]:
    """An archive whose entries would lie outside of the folder that it is unpacked into."""
    file = trap.inside / "slip.pt"
    torch.save({"a": torch.zeros(3)}, file)
    with zipfile.ZipFile(file, "a") as opened:
        opened.writestr("../canary", b"x")
        opened.writestr(str(trap.canary), b"x")
    return _convert(file)


# --- tags, entities, names --------------------------------------------------------------------------------------------


def _tag(trap: Trap) -> list[str]:
    (trap.inside / "s.yaml").write_text(f"seconds: !!python/object/apply:os.mkdir ['{trap.canary}']\n")
    return ["scenario", "check", str(trap.inside / "s.yaml")]


def _tag_of_the_line(trap: Trap) -> list[str]:
    out = ["--device", "cpu", "--out", str(trap.inside / "out")]
    return ["train", "autoencoder", f"index=!!python/object/apply:os.mkdir ['{trap.canary}']", *out]


def _tag_of_a_recipe(trap: Trap) -> list[str]:
    _clips(trap)
    (trap.inside / "r.yaml").write_text(f"name: !!python/object/new:os.mkdir ['{trap.canary}']\n")
    return _indexed(trap, "--recipe", str(trap.inside / "r.yaml"))


def _entity(trap: Trap, place: str) -> list[str]:
    head = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "{place}">]>'
    return _labels(trap, "l.xml", f"{head}<annotations><meta><task><name>&e;</name></task></meta></annotations>")


def _dtd(trap: Trap) -> list[str]:
    head = f'<?xml version="1.0"?><!DOCTYPE annotations SYSTEM "{trap.url}/a.dtd">'
    return _labels(trap, "l.xml", f"{head}<annotations/>")


def _html(trap: Trap) -> list[str]:
    run = trap.inside / f"{SCRIPT.replace('/', '')}"
    write(run / f"seed{SCRIPT.replace('/', '')}" / "video.mp4", 20, RATE)
    (run / "run.json").write_text(json.dumps({SCRIPT: f"</td>{SCRIPT}", "from": {"run": f"/{SCRIPT}", "second": 1}}))
    (run / "metrics.csv").write_text(f"step,{SCRIPT}\n1,0.5\n2,0.25\n")
    return ["report", str(run)]


def _terminal(trap: Trap) -> list[str]:
    folder = trap.inside / "clips"
    folder.mkdir()
    (folder / f"{ESCAPE}\n\n\n.mp4").write_text("no video")
    return _indexed(trap)


def _terminal_word(trap: Trap) -> list[str]:
    write(trap.inside / "clips" / "drive.mp4", 20, RATE, size=(96, 160))
    labels = trap.inside / "labels"
    labels.mkdir()
    WRITERS["csv"](tuple((n, track, f"{ESCAPE}car", box) for n, track, _, box in GOOD), labels)
    text = (labels / "drive.csv").read_text().replace("1280,720", "1600,960")
    (labels / "drive.csv").write_text(text)
    return _indexed(trap, "--labels", str(labels))


def _lines_in_a_name(trap: Trap) -> list[str]:
    (_clips(trap) / 'a\n{"path": "forged", "reason": "forged"}\n.mp4').write_text("no video")
    return _indexed(trap)


HOSTILE = (
    Hostile(1, "pickle as ckpt", _ckpt, "holds more than tensors, and is not run"),
    Hostile(2, "pickle as extractor", _extractor, "holds more than tensors, and is not run"),
    Hostile(3, "pickle of protocol 0", _old, "a pickle, which can run code"),
    Hostile(4, "pickle as safetensors", _disguised, "not a whole safetensors file"),
    Hostile(5, "pickle as a stage's weights", _as_stage, "not a whole safetensors file"),
    Hostile(6, "TorchScript archive with a program", _program, "holds more than tensors, and is not run"),
    Hostile(7, "objects in a cache of numbers", _objects, "shards are missing or not whole"),
    Hostile(8, "pickle as checkpoint", _checkpoint, "heckpoint"),
    Hostile(9, "concat playlist", _concat, "is a playlist, not a video", 0),
    Hostile(10, "HLS playlist", _hls, "is a playlist, not a video", 0),
    Hostile(11, "DASH manifest", _dash, "is a web page, not a video", mocked=True),
    Hostile(12, "pictures said to lie in another file", _dref, "", 0),
    Hostile(13, "address as a scenario's clip", _http_clip, "no such file"),
    Hostile(14, "protocol of ffmpeg as opening", _protocol, "no such file", mocked=True),
    Hostile(15, "address as weights", _http_weights, "no such file or folder"),
    Hostile(16, "video that unpacks to 2.2 GB", _bomb, "has pictures of more than", 0),
    Hostile(17, "PNG of 60,000 x 60,000", _large_png, "has pictures of more than"),
    Hostile(18, "zip bomb as labels", _zip_bomb, "is of no format that is known"),
    Hostile(19, "zip bomb as weights", _pt_bomb, "unpacks to more than twice its size"),
    Hostile(20, "YAML aliases that multiply", _aliases, "aliases stand for more than"),
    Hostile(21, "YAML of 5,000 levels", _deep_yaml, "is nested too deeply"),
    Hostile(22, "XML entities that multiply", _laughs, "declares entities or a document type"),
    Hostile(23, "JSON of 100,000 levels", _deep_json, "is not JSON"),
    Hostile(24, "safetensors with a header of exabytes", _huge_header, "not a whole safetensors file"),
    Hostile(25, "labels that ask for 50 million boxes", _many_boxes, "asks for more than"),
    Hostile(26, "tables that name pictures elsewhere", _nuscenes, "lead out of the folder"),
    Hostile(27, "scene that names labels elsewhere", _dgp, "leads out of the folder"),
    Hostile(28, "link among clips", _link, "leads out of the folder", 0),
    Hostile(29, "link among scored videos", _scored_link, "leads out of the folder", 0),
    Hostile(30, "link among pictures", _picture_link, "leads out of the folder"),
    Hostile(31, "link among labels", _label_link, "leads out of the folder"),
    Hostile(32, "index that names a clip elsewhere", _index_path, "names a clip outside of its folder"),
    Hostile(33, "index of shards elsewhere", _shards, "weight_map names files beside it"),
    Hostile(34, "journal that names files elsewhere", _journal, "falls into the run's first window"),
    Hostile(35, "run whose parent lies elsewhere", _parent, "", 0),
    Hostile(36, "recipe with labels elsewhere", _recipe, "leads out of the folder of the clips"),
    Hostile(37, "archive that unpacks elsewhere", _slip, "is damaged or not a weight file"),
    Hostile(38, "YAML tag in a scenario", _tag, "not YAML: could not determine a constructor"),
    Hostile(39, "YAML tag on the command line", _tag_of_the_line, "is not YAML"),
    Hostile(40, "YAML tag in a recipe", _tag_of_a_recipe, "not YAML: could not determine a constructor"),
    Hostile(41, "XML entity of a file", lambda t: _entity(t, f"file://{t.text}"), "declares entities"),
    Hostile(42, "XML entity of an address", lambda t: _entity(t, t.url), "declares entities"),
    Hostile(43, "XML with a document type elsewhere", _dtd, "declares entities or a document type"),
    Hostile(44, "HTML in names and facts", _html, "&lt;script&gt;alert(1)", 0),
    Hostile(45, "terminal codes in a file's name", _terminal, r"\x1b]0;owned\x07"),
    Hostile(46, "terminal codes in labels", _terminal_word, r"\x1b]0;owned\x07", 0),
    Hostile(47, "lines in a file's name", _lines_in_a_name, "is text, not a video", 0),
)
