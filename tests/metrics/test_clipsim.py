"""CLIPSIM: transformers' own CLIP is its peer; which words a video goes by; what is refused."""

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim.data.gather import Source, gather
from drivesim.data.video import Writer, stream
from drivesim.errors import Mistake
from drivesim.jobs import evaluate, index, wording
from drivesim.jobs.evaluate import Settings
from drivesim.metrics import clipsim
from drivesim.metrics.clipsim import Clip, Kept, agreement, embedded
from drivesim.world import render
from tests.models import public

FPS = Fraction(15)
WORDS = {"0": "by day", "1": "at night", "2": "rain", "3": "a cat"}


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("clip") / "clip"
    return folder, public.clip(folder)


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``real`` and ``made`` of two drives each, with a text beside every one."""
    place = tmp_path_factory.mktemp("drives")
    for seed in range(4):
        side = place / ("real" if seed < 2 else "made")
        with Writer(side / f"{seed}.mp4", (64, 128), FPS) as writer:
            writer.write(render(seed, Fraction(40, 15), FPS, (64, 128)).frames)
        (side / f"{seed}.txt").write_text(WORDS[str(seed)] + "\n")
    return place


def theirs(folder: Path, model, frames: np.ndarray, words: list[str]) -> torch.Tensor:
    """Cosines ``T N`` from transformers' own processor and forward."""
    from transformers import CLIPImageProcessorPil, CLIPTokenizer

    pixels = CLIPImageProcessorPil.from_pretrained(folder)(list(frames), return_tensors="pt")["pixel_values"]
    ids = CLIPTokenizer.from_pretrained(str(folder))(words, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = model(pixel_values=pixels, input_ids=ids["input_ids"], attention_mask=ids["attention_mask"])
    return out.logits_per_image / model.logit_scale.exp()


@pytest.mark.parametrize("size", [(64, 128), (90, 70), (32, 32), (37, 53), (20, 31)])
def test_frames_are_prepared_as_by_the_image_processor(peer, size: tuple[int, int]) -> None:
    from transformers import CLIPImageProcessorPil

    frames = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    preparation = clipsim.Preparation.of(peer[0])
    own = preparation.levels(preparation.cut(frames))
    wanted = CLIPImageProcessorPil.from_pretrained(peer[0])(list(frames), return_tensors="pt")["pixel_values"]
    # torch's bicubic in bytes is Pillow's but for ties: one level, in a few of a thousand values
    off = (own - wanted).abs() * torch.tensor(preparation.std)[:, None, None] * 255  # in levels of a byte
    assert off.max() < 1.01 and (off > 0.5).float().mean() < 0.01


def test_cosines_are_those_of_clip(peer) -> None:
    folder, model = peer
    frames = np.random.default_rng(1).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)  # no resize: the same bytes
    words = ["a cat", "rain, by day", "x"]
    clip = Clip(folder)
    own = clip.images(clip.preparation.cut(frames)) @ clip.texts(words).T
    wanted = theirs(folder, model, frames, words)
    assert float((own - wanted).abs().max()) < 1e-5
    assert float(wanted.std()) > 1e-3, "it does not say the same of all"
    # a frame's vector does not depend on what is beside it
    torch.testing.assert_close(clip.images(clip.preparation.cut(frames[17:18])) @ clip.texts(words).T, own[17:18])


def test_the_score_is_the_mean_of_clips_cosines(peer, drives: Path, tmp_path: Path) -> None:
    folder, model = peer
    settings = Settings(fps=FPS, controls=False, cache=tmp_path / "cache", clipsim=folder)
    found = evaluate.run(drives / "real", drives / "made", tmp_path / "out", settings=settings)
    score, real = found[3:]
    assert (score["metric"], real["metric"]) == ("clipsim", "clipsim[real]")
    for row, names, side in ((score, "23", "made"), (real, "01", "real")):
        means = []
        for name in names:
            parts = [part.frames for part in stream(drives / side / f"{name}.mp4", fps=FPS, chunk=16)]
            means.append(theirs(folder, model, np.concatenate(parts), [WORDS[n] for n in names]).mean(0))
        square = torch.stack(means)
        assert row["value"] == pytest.approx(float(square.diagonal().mean()), abs=2e-4)
        assert row["controls"]["shuffled"] == pytest.approx(float((square.sum() - square.trace()) / 2), abs=2e-4)
        assert row["se"] == pytest.approx(float(square.diagonal().std() / 2**0.5), abs=2e-4)
    assert score["controls"]["true"] == real["value"]
    assert (score["n_generated"], score["n_real"]) == (2, 2)
    receipt = score["receipt"]
    assert receipt["extractor"]["name"] == f"clip-{receipt['extractor']['sha'][:8]}" and receipt["fps"] == "15"
    assert receipt["size"] == [32, 32] and receipt["protocol"] == "clipsim" and score["left_out"] == []
    assert "clipsim" in (tmp_path / "out" / "scores.md").read_text()
    assert "videos that have words" in (tmp_path / "out" / "report.html").read_text()


def test_embeddings_are_kept_by_content_weights_and_rate(peer, drives: Path, tmp_path: Path, monkeypatch) -> None:
    clip, source = Clip(peer[0]), Source(drives / "made" / "2.mp4")
    kept = Kept(tmp_path, clip, None)
    first = kept.mean(source, "a" * 64, clip, None)
    assert torch.equal(first, embedded(source, clip, None).double().mean(0)) and len(embedded(source, clip, None)) == 40
    assert len(embedded(source, clip, Fraction(5))) == 14
    monkeypatch.setattr(clipsim, "embedded", None)
    assert torch.equal(kept.mean(source, "a" * 64, clip, None), first)
    assert Kept(tmp_path, clip, Fraction(5)).folder != kept.folder
    public.clip(tmp_path / "other", seed=1)
    assert Kept(tmp_path, Clip(tmp_path / "other"), None).folder != kept.folder


def test_what_clip_has_to_look_at_is_told_before(peer, drives: Path, tmp_path: Path, capsys) -> None:
    """Every frame at the rate that is asked for, of videos that are not in the cache."""
    settings = Settings(fps=FPS, controls=False, cache=tmp_path / "cache", clipsim=peer[0])
    sides = (drives / "real", drives / "made")

    def foretold() -> str:
        evaluate.run(*sides, settings=settings, dry_run=True)
        return " ".join(capsys.readouterr().out.split())

    before = foretold()
    counted = sum(len(embedded(source, Clip(peer[0]), FPS)) for side in sides for source in gather(side))
    assert f"frames for CLIP {counted} x" in before
    evaluate.run(*sides, settings=settings)
    assert "frames for CLIP" not in foretold()


def test_known_answers(peer) -> None:
    """Frames that are the very vectors of their words score 1, whatever the others are."""
    clip = Clip(peer[0])
    words = ["a cat", "rain", "a cat"]
    texts = clip.texts(words)
    found = agreement(texts, words, clip)
    assert found.value == pytest.approx(1.0, abs=1e-6) and found.se == pytest.approx(0.0, abs=1e-6)
    assert found.shuffled == pytest.approx(float(texts[0] @ texts[1]), abs=1e-6)
    alone = agreement(texts[:1], words[:1], clip)
    assert alone.se is None and alone.shuffled is None
    assert agreement(-texts, words, clip).value == pytest.approx(-1.0, abs=1e-6), "it is not clipped"


def test_which_words_a_video_goes_by(peer, drives: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    shutil.copy(drives / "made" / "2.mp4", run / "video.mp4")
    (run / "run.json").write_text("{}")
    (run / "scenario.yaml").write_text("version: 1\nlabels: {prompt: 'a  road'}\n")
    (source,) = gather(run)
    assert wording.beside(source) == "a road"
    (run / "video.txt").write_text("not this")
    assert wording.beside(source) == "a road", "what it was told goes first"
    (run / "scenario.yaml").write_text("version: 1\nlabels: {night: true}\n")
    assert wording.beside(source) == "not this"
    # an index has its captions, and does not look beside
    index.run(drives / "made", tmp_path / "index")
    places = (gather(tmp_path / "index"), gather(tmp_path / "index"))
    for file in (drives / "made").glob("*.txt"):
        file.rename(file.with_suffix(".gone"))
    try:
        plan = wording.planned((tmp_path / "index", tmp_path / "index"), places)
        assert [words for _, words in plan.made] == [WORDS[source.file.stem] for source in places[1]]
        # without: one of two has words, and the other is counted
        (drives / "made" / "3.gone").rename(drives / "made" / "3.txt")
        settings = Settings(fps=FPS, controls=False, cache=tmp_path / "cache", clipsim=peer[0])
        score = evaluate.run(drives / "real", drives / "made", settings=settings)[3]
        assert score["n_generated"] == 1 and score["se"] is None and "shuffled" not in score["controls"]
        (left,) = score["left_out"]
        assert left["reason"] == "words: generated: has no words" and left["count"] == 1
        assert Path(left["examples"][0]).name == "2.mp4"
    finally:
        for file in (drives / "made").glob("*.gone"):
            file.rename(file.with_suffix(".txt"))


def test_words_that_are_cut_off_are_noted(peer, drives: Path, tmp_path: Path) -> None:
    shutil.copytree(drives / "made", tmp_path / "made")
    (tmp_path / "made" / "2.txt").write_text("a b c d " * 30)
    settings = Settings(fps=FPS, controls=False, cache=tmp_path / "cache", clipsim=peer[0])
    found = evaluate.run(drives / "real", tmp_path / "made", settings=settings)[3]
    assert [note["reason"] for note in found["notes"]] == ["words: generated: words are cut off after 77 tokens"]


def test_mistakes_by_name(peer, drives: Path, tmp_path: Path) -> None:
    def said(folder: Path, made: Path = drives / "made") -> str:
        with pytest.raises(Mistake) as caught:
            evaluate.run(
                drives / "real", made, settings=Settings(fps=FPS, controls=False, cache=tmp_path / "c", clipsim=folder)
            )
        return str(caught.value)

    assert "no such folder of CLIP weights" in said(tmp_path / "nowhere")
    for name, words in (
        ("vocab.json", "the tokenizer's vocab.json is missing"),
        ("model.safetensors", "holds no model.safetensors"),
        ("preprocessor_config.json", "no preprocessor_config.json beside the weights"),
        ("config.json", "no config.json beside the weights"),
    ):
        folder = tmp_path / name
        shutil.copytree(peer[0], folder)
        (folder / name).unlink()
        assert words in said(folder)
    folder = tmp_path / "other"
    shutil.copytree(peer[0], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["CLIPTextModel"]}))
    assert "'CLIPTextModel' is not read" in said(folder)
    (folder / "config.json").write_text(json.dumps(config))
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, "resample": 2}))
    assert "is no image processor of CLIP" in said(folder)
    silent = tmp_path / "silent"
    silent.mkdir()
    shutil.copy(drives / "made" / "2.mp4", silent)
    assert "no generated video has words" in said(peer[0], silent)


def test_other_weights_do_not_compare(peer, drives: Path, tmp_path: Path) -> None:
    from drivesim.metrics.receipt import comparable

    public.clip(tmp_path / "other", seed=1)
    own = Settings(fps=FPS, controls=False, cache=tmp_path / "cache", clipsim=peer[0])
    one, same, other = (
        evaluate.run(drives / "real", drives / "made", settings=settings)[3]
        for settings in (own, own, replace(own, clipsim=tmp_path / "other"))
    )
    assert one == same and comparable(one, same) == [] and comparable(one, other) == ["extractor"]
