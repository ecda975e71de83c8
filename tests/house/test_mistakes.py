"""Mistakes on the command line: the real jobs answer each with one to three lines that say what, where and the mend."""

import re
import shlex
from fractions import Fraction
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from drivesim import cli

# The words of the command, and what must be on its lines: what is wrong and where on the first, the mend on the next.
MISTAKES = (
    # a wrong word gets the nearest right one
    ("idnex clips", "unknown command 'idnex'", "did you mean 'index'?"),
    ("evalute clips clips", "unknown command 'evalute'", "did you mean 'evaluate'?"),
    ("--verison", "unknown option '--verison'", "did you mean '--version'?"),
    ("index clips --recipie r.yaml", "index: unknown option '--recipie'", "did you mean '--recipe'?"),
    ("train --print-confg autoencoder", "train: unknown option '--print-confg'", "did you mean '--print-config'?"),
    ("generate --weights empty --minuets=2", "unknown option '--minuets'", "did you mean '--minutes'?"),
    ("train autoencodre", "train: no stage 'autoencodre'", "did you mean 'autoencoder'?"),
    ("train upsampler_temporal", "no stage 'upsampler_temporal'", "did you mean 'upsampler-temporal'?"),
    ("train autoencoder modle.channels=[8]", "command line: modle: no such key", "did you mean 'model'?"),
    ("train autoencoder model.chanels=[8]", "command line: model.chanels: no such key", "did you mean 'channels'?"),
    ("train autoencoder typo.yaml", "typo.yaml line 2: loop.stesp: no such key", "did you mean 'steps'?"),
    ("train autoencoder loop.precision=bf16-mixd", '"bf16-mixd" is not known', "did you mean 'bf16-mixed'?"),
    ("encode clips --weights w --size 64x64 --precision bf61", "'bf61' is not known", "did you mean 'bf16'?"),
    ("generate --weights empty fill=repaet", 'fill: "repaet" is not known', "did you mean 'repeat'?"),
    ("generate --weights empty samplr.steps=3", "samplr: no such key", "did you mean 'sampler'?"),
    ("generate --weights empty --export kity", "--export: no label format 'kity'", "did you mean 'kitti'?"),
    ("evaluate clips clips --protocol papr", "--protocol: unknown protocol 'papr'", "did you mean 'paper'?"),
    ("scenario chek s.yaml", "scenario: no action 'chek'", "did you mean 'check'?"),
    ("scenario check key.yaml", "key.yaml line 2: openning: no such key", "did you mean 'opening'?"),
    ("scenario check class.yaml", "class.yaml line 3: tracks[0].class:", "did you mean 'truck'?"),
    ("scenario check op.yaml", "op.yaml line 3: edits[0].op:", "did you mean 'delete'?"),
    ("scenario convert s.yaml --format cocoo", "--format: no label format 'cocoo'", "did you mean 'coco'?"),
    ("weights chek empty", "weights: no action 'chek'", "did you mean 'check'?"),
    ("index clips --labels l.json --format motc", "--format: no label format 'motc'", "did you mean 'mot'?"),
    # files that are missing, or of another kind
    ("index clps", "clps: no such folder", "did you mean 'clips'?"),
    ("index empty", "empty: is an empty folder", ".mp4, .mov"),
    ("index words", "words: holds no readable video", "film.mp4 is text, not a video"),
    ("index words/film.mp4", "words/film.mp4: is not a folder", "name the folder"),
    ("index clips --recipe recipes.yaml", "recipes.yaml: no such file", "did you mean 'recipe.yaml'?"),
    ("index recipe.yaml", "recipe.yaml: does not say where the clips are", "drivesim index FOLDER --recipe FILE"),
    ("index clips --labels words/film.mp4", "film.mp4: is of no format that is known", "--format: bdd100k, kitti"),
    ("index clips --labels label.json", "label.json: no such file or folder of labels", "did you mean"),
    ("encode clips --weights empty --size 64x64", "clips: is not an index", "'drivesim index FOLDER --out INDEX'"),
    ("train autoencoder typos.yaml", "typos.yaml: no such file", "did you mean 'typo.yaml'?"),
    ("train autoencoder empty", "empty: is a folder", "a YAML file is expected"),
    ("train autoencoder broken.yaml", "broken.yaml line 2: not YAML", "expected"),
    ("train autoencoder twice.yaml", "twice.yaml line 3: loop: is given twice, first on line 1", "keep one of them"),
    ("train autoencoder index=empty", "empty: is not an index", "'drivesim index FOLDER --out INDEX' makes one"),
    ("train autoencoder --resume --out empty", "empty: no checkpoint to resume from", "leave --resume away"),
    ("train image", "'autoencoder' is not set", "autoencoder=RUN/weights/autoencoder.safetensors"),
    ("generate --weights weigths", "weigths: no such folder of weights", "'drivesim train' writes RUN/weights"),
    ("generate --weights empty", "empty/autoencoder.safetensors: no such weight file", "'drivesim train' writes it"),
    ("generate s.yml --weights empty", "s.yml: no such file", "did you mean 's.yaml'?"),
    ("generate --weights empty --from empty --at 3", "empty: is not a run of 'drivesim generate'", "--from names"),
    ("evaluate empty clips", "empty: holds no video", ".mp4, .mov"),
    ("evaluate clips mde", "mde: no such file or folder", "did you mean 'made'?"),
    ("evaluate clips made --protocol paper", "looks through i3d, whose weights are not shipped", "SHA-256"),
    ("compare words words", "film.mp4 is text, not a video", "longer video is needed"),
    ("compare --tally empty", "empty/key.json: cannot be read", "'drivesim compare A B --out DIR' makes a study"),
    ("report s.yaml", "s.yaml: no such run folder", "make one"),
    ("report empty", "empty: holds no video, scores or training curves", "a run folder of drivesim is expected"),
    ("weights check empty", "empty: holds no weights", "a file, a folder with config.json"),
    ("weights check p.ckpt", "p.ckpt: a pickle, which can run code", "drivesim weights convert p.ckpt"),
    (f"index {'a' * 300}", "File name too long", "aaaa"),
    (f"scenario check {'a' * 300}.yaml", "File name too long", "aaaa"),
    # values out of their range, or of another type
    ("train autoencoder loop.steps=many", "loop.steps: a whole number is expected, not", "steps"),
    ("train autoencoder loop=3", "loop: a mapping of keys is expected, not 3", "loop.KEY=VALUE"),
    ("train autoencoder size=64", "command line: size: a list is expected, not 64", "height and width"),
    ("train autoencoder fps=fast", "fps: a rate above 0 is expected, not 'fast'", "such as 1, 30 or 15/8"),
    ("train autoencoder loop.steps", "loop.steps: no such file", "loop.steps=VALUE"),
    ("train autoencoder 'index=[1'", "the value of 'index=[1' is not YAML", "quote it for the shell"),
    ("train autoencoder --seed -3", "train: --seed: '-3' is not a seed", "a whole number from 0"),
    ("train autoencoder --device gpu", "--device: 'gpu' is not a device", "auto, cpu, mps, cuda or cuda:N"),
    ("generate --weights empty --minutes two", "--minutes: 'two' is not a length in minutes", "for example 2 or 0.5"),
    ("generate --weights empty --size 256,512", "--size: '256,512' is not HEIGHTxWIDTH", "for example 256x512"),
    ("generate --weights empty --fps 15/0", "--fps: '15/0' is not a frame rate", "for example 30, 15/8 or 7.5"),
    ("generate --weights empty --opening a.mp4@x", "--opening: 'x' is not a time in seconds", "drive.mp4@12.5"),
    ("generate long.yaml --weights empty", "long.yaml line 1: seconds:", "seconds: length of the output"),
    ("generate seeds.yaml --weights empty", "seeds.yaml line 1: seeds: a seed is named twice", "leave one out"),
    ("scenario check none.yaml", "none.yaml line 1: boxes: there are no tracks", "add tracks, edits"),
    ("scenario check far.yaml", "far.yaml line 3: tracks[0].keys[0].box[3]:", "box"),
    ("index clips --recipe rate.yaml", "rate.yaml line 1: fps: 'fast' is not a rate", "write 10, 7.5 or '30000/1001'"),
    ("index clips --recipe images.yaml", "images.yaml line 1: kind: images carry no frame rate", "add fps: 10"),
    ("evaluate clips made --window x", "--window: 'x' is not a length in seconds", "for example 4 or 2.5"),
    ("compare clips made --pairs 0", "--pairs: '0' is not a whole number from 1", "--help"),
    # what is missing, and what is too much
    ("", "a command is expected", "one of index, encode, train"),
    ("index", "index: SOURCE is missing", "expected: drivesim index SOURCE"),
    ("index clips made", "index: unexpected argument 'made'", "expected: drivesim index SOURCE"),
    ("index clips --out", "index: --out: expected one argument", "'drivesim index --help'"),
    ("encode clips --size 64x64", "encode: --weights is required", "'drivesim encode --help'"),
    ("train", "STAGE is missing", "drivesim train autoencoder configs/tiny/autoencoder.yaml"),
    ("generate s.yaml key.yaml --weights empty", "unexpected argument 'key.yaml'", "one SCENARIO"),
    ("generate --weights empty --at 3", "--at: belongs to a branch", "add --from RUN"),
    ("evaluate clips", "evaluate: GENERATED is missing", "expected: drivesim evaluate REAL GENERATED"),
    ("compare --tally empty --seed 0", "--seed has no meaning with --tally", "--tally DIR [VOTES ...]"),
    ("scenario convert s.yaml", "--format: is missing: convert needs it", "one of bdd100k"),
    ("scenario check s.yaml --format coco", "--format: belongs to convert, not to check", "leave it out"),
    ("weights convert p.ckpt", "weights: 'convert' takes --out", "'check' does not"),
    ("doctor now", "doctor: unexpected argument 'now'", "expected: drivesim doctor"),
)  # fmt: skip
FILES = {
    "typo.yaml": "loop:\n  stesp: 3\n",
    "broken.yaml": "loop:\n  ]\n",
    "twice.yaml": "loop:\n  steps: 3\nloop: {}\n",
    "s.yaml": "seconds: 2\n",
    "key.yaml": "seconds: 2\nopenning: {}\n",
    "class.yaml": "boxes: tracks\ntracks:\n  - {id: a, class: trukc, keys: [{t: 0, box: [0, 0, 1, 1]}]}\n",
    "op.yaml": "boxes: tracks\nedits:\n  - {op: delte, track: a}\n",
    "far.yaml": "boxes: tracks\ntracks:\n  - {id: a, class: car, keys: [{t: 0, box: [0, 0, 1, 100]}]}\n",
    "long.yaml": "seconds: -2\n",
    "seeds.yaml": "seeds: [1, 1]\n",
    "none.yaml": "boxes: tracks\n",
    "recipe.yaml": "name: mine\n",
    "rate.yaml": "fps: fast\n",
    "images.yaml": "kind: images\n",
    "labels.json": "{}",
    "l.json": "{}",
    "p.ckpt": "",
    "words/film.mp4": "not a film",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the mistakes are about, which none of them changes."""
    from drivesim.data import video

    folder = tmp_path_factory.mktemp("mistakes")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    (folder / "empty").mkdir()
    for name in ("clips", "made"):
        with video.Writer(folder / name / "a.mp4", (32, 64), Fraction(10)) as writer:
            writer.write(np.zeros((10, 32, 64, 3), np.uint8))
    return folder


@pytest.fixture
def folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


def test_fifty() -> None:
    assert len({line for line, _, _ in MISTAKES}) == len(MISTAKES) >= 50


@pytest.mark.parametrize(("line", "says", "mend"), MISTAKES)
def test_a_mistake_is_one_to_three_lines(
    folder: Path, capsys: pytest.CaptureFixture, line: str, says: str, mend: str
) -> None:
    before = sorted(folder.rglob("*"))
    words = shlex.split(line)
    if words[:1] and words[0] in ("encode", "train", "generate", "evaluate") and "--device" not in words:
        words += ["--device", "cpu"]
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    lines = err.splitlines()
    assert 1 <= len(lines) <= 3 and lines[0].startswith("drivesim: ") and "Traceback" not in err
    assert says in lines[0] and mend in err, err
    assert not re.search(r"Errno|Exception|object at 0x", err)
    assert sorted(folder.rglob("*")) == before, "a mistake leaves something behind"


@pytest.mark.parametrize("order", list(permutations(["--minutes two", "--weights empty", "s.yaml", "fill=hold"])))
def test_a_mistake_is_told_wherever_it_stands(folder: Path, capsys: pytest.CaptureFixture, order: tuple) -> None:
    assert cli.main(["generate", *" ".join(order).split()]) == 2
    assert "--minutes: 'two' is not a length in minutes" in capsys.readouterr().err


def test_the_traceback_is_for_debug_alone(folder: Path, capsys: pytest.CaptureFixture) -> None:
    for words in (["--debug", "index", "clps"], ["index", "--debug", "clps"], ["index", "clps", "--debug"]):
        assert cli.main(words) == 2
        assert "Traceback" in capsys.readouterr().err
