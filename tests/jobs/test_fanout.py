"""Encoding, generating and scoring by workers: the same bytes as by one process, also where a worker was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim import config, disk, weights
from drivesim.data import latent_windows, video
from drivesim.data.index import Index
from drivesim.data.latents import ABOUT, LatentCache
from drivesim.data.writer import Writer
from drivesim.errors import Interrupted, Mistake
from drivesim.jobs import encode, index, train
from drivesim.jobs.fanout import Engine
from drivesim.models.autoencoder import Autoencoder, AutoencoderConfig
from drivesim.randomness import generator
from drivesim.scene import to_model

from .test_chain import LOOP, SETTINGS, SIZE

FPS, RATE = Fraction(15, 2), Fraction(15)


def filmed(folder: Path, seed: int) -> Path:
    """An index of ten clips of three seconds, with shades that move."""
    place = np.linspace(0, 6, SIZE[1])
    for n in range(10):
        speed, colour = generator(seed, n).normal(size=(2, 3))
        shades = np.sin(place[None, :, None] + np.arange(45)[:, None, None] / 15 * speed + colour)
        frames = np.broadcast_to((shades * 100 + 128).astype(np.uint8)[:, None], (45, *SIZE, 3))
        with Writer(folder / "clips" / f"{n}.mp4", SIZE, RATE) as writer:
            writer.write(np.ascontiguousarray(frames))
    return index.run(folder / "clips", folder / "index")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filmed(tmp_path_factory.mktemp("fanout"), 5)


@pytest.fixture(scope="module")
def autoencoder(world: Path) -> Path:
    """That of nothing learned."""
    settings, file = AutoencoderConfig(channels=(8, 8, 8), blocks=1, attention=False, groups=4), world.parent / "a"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Autoencoder(settings)
    weights.save(file, model.state_dict(), weights.Header("autoencoder", config.plain(settings)))
    return file


@pytest.fixture
def whole(world: Path, autoencoder: Path) -> Path:
    """The cache as one process makes it at once."""
    out = world.parent / "whole"
    return out if out.exists() else encode.run(world, autoencoder, out, FPS, SIZE)


def content(folder: Path, *names: str) -> dict[str, bytes]:
    """The bytes of the files of a folder, or of those in it that have one of ``names``."""
    files = [file for file in folder.rglob("*") if file.is_file() and (not names or file.name in names)]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


class Killed(Exception):
    """Stands for what ends a process."""


def dies_after(monkeypatch: pytest.MonkeyPatch, shards: int) -> list[int]:
    """The next encoding ends behind so many shards; returns the numbers of those that were begun."""
    begun: list[int] = []
    real = encode.Encoder.__call__

    def counted(self: encode.Encoder, shard: encode.Shard) -> None:
        if len(begun) == shards:
            raise Killed
        begun.append(shard.number)
        real(self, shard)

    monkeypatch.setattr(encode.Encoder, "__call__", counted)
    return begun


# --- encode -----------------------------------------------------------------------------------------------------------


def place(frames: int) -> encode.Place:
    return encode.Place(0, Fraction(0), frames)


def test_shards_follow_from_the_frames_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sequence once and in order; a shard ends with the sequence that fills it."""
    monkeypatch.setattr(encode, "SHARDS", 4)
    places = [place(frames) for frames in (5, 1, 1, 8, 2, 3)]
    shards = encode.cut(places, 10)
    assert [[p.frames for p in shard.places] for shard in shards] == [[5], [1, 1, 8], [2, 3]]
    assert [shard.number for shard in shards] == [0, 1, 2]
    monkeypatch.setattr(encode, "SHARD_BYTES", 20)
    assert [[p.frames for p in s.places] for s in encode.cut(places, 10)] == [[5], [1, 1], [8], [2], [3]]
    monkeypatch.setattr(encode, "SHARDS", 64)
    assert len(encode.cut([place(1)] * 3, 1)) == 3


def test_what_is_left_of_an_encoding_is_gone_on_with(
    world: Path, autoencoder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, count = tmp_path / "cache", len(list(whole.glob("*[0-9].npy")))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dies_after(patch, 3)
        encode.run(world, autoencoder, out, FPS, SIZE)
    assert count > 6 and not (out / ABOUT).exists()
    with pytest.raises(Mistake, match="is not a latent cache"):
        LatentCache.open(out)
    with pytest.raises(Mistake, match="holds a part of a cache") as told:
        encode.run(world, autoencoder, out, FPS, SIZE)
    assert "--resume" in (told.value.mend or "")
    (out / "000001.npy").write_bytes((out / "000001.npy").read_bytes()[:200])  # the machine died, not the process alone
    with monkeypatch.context() as patch:
        begun = dies_after(patch, count)
        encode.run(world, autoencoder, out, FPS, SIZE, resume=True)
    assert begun == [1, *range(3, count)]
    assert content(out) == content(whole)
    encode.run(world, autoencoder, out, FPS, SIZE, resume=True)  # nothing is left
    assert content(out) == content(whole)


def test_a_part_of_another_cache_is_refused(
    world: Path, autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, other = tmp_path / "cache", tmp_path / "other.safetensors"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dies_after(patch, 1)
        encode.run(world, autoencoder, out, FPS, SIZE)
    before = content(out)
    tensors, header = weights.load(autoencoder)
    weights.save(other, {name: tensor + 1e-3 for name, tensor in tensors.items()}, header)
    with pytest.raises(Mistake, match="was begun with another autoencoder\n"):
        encode.run(world, other, out, FPS, SIZE, resume=True)
    with pytest.raises(Mistake, match="was begun with another fps, phases\n"):
        encode.run(world, autoencoder, out, Fraction(5), SIZE, phases=2, resume=True)
    assert content(out) == before
    encode.run(world, autoencoder, out, FPS, SIZE, resume=True)
    with pytest.raises(Mistake, match="holds another cache"):
        encode.run(world, other, out, FPS, SIZE, resume=True)
    with pytest.raises(Mistake, match="holds latents of another autoencoder"):
        LatentCache.open(out, disk.sha256(other))


def test_where_no_shard_was_made_nothing_stays(
    world: Path, autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies_after(monkeypatch, 0)
    with pytest.raises(Killed):
        encode.run(world, autoencoder, tmp_path / "new" / "cache", FPS, SIZE)
    assert not (tmp_path / "new").exists()


def test_a_clip_without_a_frame_leaves_no_gap(
    world: Path, autoencoder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers count shards from 0."""
    real, second = encode.Encoder.moments, Index.open(world).entries[1].clip_id

    def none_of_the_second(self: encode.Encoder, place: encode.Place, most: int | None = None) -> object:
        return iter(()) if place.entry == 1 else real(self, place, most)

    monkeypatch.setattr(encode.Encoder, "moments", none_of_the_second)
    found = LatentCache.open(encode.run(world, autoencoder, tmp_path / "cache", FPS, SIZE))
    full = LatentCache.open(whole)
    left = [s for s in full.sequences if s.clip_id != second]
    assert len(left) == len(full.sequences) - 1 == len(found.sequences)
    for one, other in zip(found.sequences, left, strict=True):
        assert replace(one, shard=0, offset=0) == replace(other, shard=0, offset=0)
        assert (found.read(one, 0, one.frames) == full.read(other, 0, other.frames)).all()


def test_asked_to_stop_it_ends_behind_a_shard(
    world: Path, autoencoder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = encode.Encoder.__call__

    def asked(self: encode.Encoder, shard: encode.Shard) -> None:
        if shard.number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        real(self, shard)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(encode.Encoder, "__call__", asked)
        encode.run(world, autoencoder, tmp_path / "cache", FPS, SIZE)
    assert {f.name for f in (tmp_path / "cache").glob("*[0-9].npy")} == {f"00000{n}.npy" for n in range(3)}
    encode.run(world, autoencoder, tmp_path / "cache", FPS, SIZE, resume=True)
    assert content(tmp_path / "cache") == content(whole)


@pytest.mark.slow
def test_training_from_the_cache_is_training_from_the_clips(
    world: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every window read from its clip and encoded when it is asked for: the same losses and weights, later."""
    model, by_id = (
        Autoencoder.load(models / "autoencoder.safetensors"),
        {e.clip_id: e for e in Index.open(world).entries},
    )
    real, taken = latent_windows.Latents.__getitem__, {"cache": 0.0, "clips": 0.0}

    def timed(self: latent_windows.Latents, sample: int) -> dict[str, torch.Tensor]:
        begin = time.perf_counter()
        item = real(self, sample)
        taken["cache"] += time.perf_counter() - begin
        return item

    def encoded(self: latent_windows.Latents, sample: int) -> dict[str, torch.Tensor]:
        item, begin = real(self, sample), time.perf_counter()
        row, first, slack, stride = self.window(sample)
        sequence, rate = self.cache.sequences[row], self.cache.fps / stride
        first += int(self._orders[stride].uniform(sample) * (slack + 1))
        start = Fraction(sequence.start_num, sequence.start_den) + first / self.cache.fps
        file = by_id[sequence.clip_id].file
        clip = video.read(file, fps=rate, start=start, frames=self.frames, size=self.cache.size)
        with torch.no_grad():
            moments = model.encode(to_model(clip.frames)).half().float().contiguous()
        taken["clips"] += time.perf_counter() - begin
        return item | {"moments": moments}

    weights_of, losses = {}, {}
    words = [*SETTINGS["keyframes"], *LOOP, f"cache={world.parent / 'keyframes-cache'}"]
    words += [f"image={models / 'image.safetensors'}", "loop.steps=8"]
    for name, read in (("cache", timed), ("clips", encoded)):
        monkeypatch.setattr(latent_windows.Latents, "__getitem__", read)
        weights_of[name] = weights.load(train.run("keyframes", None, words, tmp_path / name, 3))[0]
        rows = (tmp_path / name / "metrics.csv").read_text().splitlines()
        losses[name] = [row.split(",")[rows[0].split(",").index("loss")] for row in rows[1:]]
    print(f"a window: {taken['clips'] / taken['cache']:.0f} times as long from the clip as from the cache")
    assert losses["cache"] == losses["clips"] and len(losses["cache"]) > 1
    assert all(torch.equal(tensor, weights_of["clips"][key]) for key, tensor in weights_of["cache"].items())
    assert taken["clips"] > taken["cache"]


# --- the engine -------------------------------------------------------------------------------------------------------


def test_options_of_ray_without_it_are_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ({"workers": 2}, {"address": "head:6379"}):
        with pytest.raises(Mistake, match="has a meaning with --engine ray alone"):
            Engine(**given)
    monkeypatch.setattr("drivesim.jobs.fanout.find_spec", lambda name: None)
    with pytest.raises(Mistake) as told:
        Engine("ray")
    assert str(told.value) == "--engine ray: ray is not installed\n  pip install 'drivesim[ray]'"


def test_a_cluster_has_its_own_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivesim.jobs.fanout.find_spec", lambda name: name)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(Mistake, match="head:6379 has workers of its own"):
        Engine("ray", workers=2)
    assert Engine("ray").count("cpu") == 1 and Engine("ray", address="other:1").joined == "other:1"
    monkeypatch.delenv("RAY_ADDRESS")
    assert Engine("ray", workers=5).count("cpu") == 5


def test_a_process_has_the_threads_that_are_asked_for() -> None:
    before = torch.get_num_threads()
    try:
        with Engine(threads=3).crew("cpu") as crew:
            assert torch.get_num_threads() == 3 and not crew.far
            assert list(crew.map(lambda n: n * n, [3, 1, 2], "squares", str)) == [9, 1, 4]
    finally:
        torch.set_num_threads(before)


# --- Ray --------------------------------------------------------------------------------------------------------------


def command(*words: object, ray: bool = False) -> subprocess.Popen[str]:
    """``drivesim`` in one process of one thread, or by a real cluster of three workers on this machine."""
    pytest.importorskip("ray")
    how = ["--engine", "ray", "--workers", "3"] if ray else []
    line = [sys.executable, "-m", "drivesim.cli", *map(str, words), *how, "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process: subprocess.Popen[str]) -> str:
    text = process.communicate(timeout=500)[0]
    assert process.returncode == 0, text
    return text


def busy(process: subprocess.Popen[str]) -> list[int]:
    """Workers of Ray that are at a task of ours."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if file.read_bytes().startswith(b"ray::drivesim") and _below(int(file.parent.name), process.pid):
                found.append(int(file.parent.name))
        except OSError:
            continue
    return found


def _below(pid: int, ancestor: int) -> bool:
    while pid > 1 and pid != ancestor:
        pid = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    return pid == ancestor


def kill_one(process: subprocess.Popen[str], begun: Callable[[], bool]) -> int:
    """``kill -9`` of a worker at its task, once ``begun``; returns which it was."""
    while process.poll() is None:
        if begun() and (workers := busy(process)):
            os.kill(workers[0], signal.SIGKILL)
            return workers[0]
        time.sleep(0.01)
    pytest.fail(f"it was over before a worker could be killed: {process.communicate()[0]}")


@pytest.fixture(scope="module")
def models(world: Path) -> Path:
    """A folder of weights that generates."""
    words = [*SETTINGS["autoencoder"], *LOOP, f"index={world}"]
    autoencoder = train.run("autoencoder", None, words, world.parent / "autoencoder", 0)
    cache = encode.run(world, autoencoder, world.parent / "keyframes-cache", Fraction(15, 8), SIZE)
    image = train.run("image", None, [*SETTINGS["image"], *LOOP, f"cache={cache}", f"autoencoder={autoencoder}"],
                      world.parent / "image", 0)  # fmt: skip
    words = [*SETTINGS["keyframes"], *LOOP, f"cache={cache}", f"image={image}"]
    return train.run("keyframes", None, words, world.parent / "keyframes", 0).parent


@pytest.mark.slow
def test_64_scenarios_with_a_worker_killed_are_the_same_videos(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scenarios"
    folder.mkdir()
    for n in range(64):
        night = "true" if n % 2 else "false"
        (folder / f"s{n:02d}.yaml").write_text(
            f"seconds: 4\nfps: 15/8\nseeds: [{n}]\nboxes: unknown\nopening: {{generate: {{night: {night}}}}}\n"
        )
    words = ("generate", folder, "--weights", models, "--precision", "32", "sampler.steps=4", "start.steps=4")
    begin = time.perf_counter()
    ended(command(*words, "--threads", "1", "--out", tmp_path / "one"))
    alone = time.perf_counter() - begin
    out, begin = tmp_path / "many", time.perf_counter()
    many = command(*words, "--out", out, ray=True)
    killed = kill_one(many, lambda: len(list(out.glob("*/video.mp4"))) >= 10)
    text = ended(many)
    print(f"64 scenarios: {alone:.1f} s in-process, {time.perf_counter() - begin:.1f} s by Ray, {killed} killed")
    promised = ("video.mp4", "labels.parquet", "journal.jsonl", "plan.json", "scenario.yaml", "config.yaml")
    one, two = content(tmp_path / "one", *promised), content(out, *promised)
    assert len([name for name in one if name.endswith("video.mp4")]) == 64
    assert one == two
    assert len({data for name, data in one.items() if name.endswith("video.mp4")}) == 64
    assert all(json.loads(file.read_text())["status"] == "done" for file in out.glob("*/run.json"))
    assert not list(out.rglob("lock")) and not list(out.rglob("*.part"))
    assert "".join(text.split()).count("video.mp4:") == 64 and "Traceback" not in text


@pytest.mark.slow
def test_encoding_with_a_worker_killed_gives_the_same_bytes(world: Path, models: Path, tmp_path: Path) -> None:
    words = ("encode", world, "--weights", models, "--size", "32x64", "--fps", "15", "--phases", "1", "--batch", "1")
    ended(command(*words, "--threads", "1", "--out", tmp_path / "one"))
    out = tmp_path / "many"
    many = command(*words, "--out", out, ray=True)
    kill_one(many, lambda: len(list(out.glob("*[0-9].npy"))) >= 2)
    ended(many)
    assert content(out) == content(tmp_path / "one") and len(list(out.glob("*[0-9].npy"))) == 10


@pytest.mark.slow
def test_scores_with_a_worker_killed_are_the_same(world: Path, tmp_path: Path) -> None:
    made = filmed(tmp_path, 9)
    words = ("evaluate", world, made, "--fps", "15")
    ended(command(*words, "--cache", tmp_path / "a", "--json", tmp_path / "one.json"))
    many = command(*words, "--cache", tmp_path / "b", "--json", tmp_path / "many.json", ray=True)
    kill_one(many, lambda: True)
    ended(many)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "many.json").read_bytes()
    assert content(tmp_path / "a", *kept(tmp_path / "a")) == content(tmp_path / "b", *kept(tmp_path / "a"))


def kept(cache: Path) -> set[str]:
    return {file.name for file in cache.rglob("*.safetensors")}


@pytest.mark.slow
def test_stopped_by_ctrl_c_it_can_be_resumed(models: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "scenarios", tmp_path / "out"
    folder.mkdir()
    for n in range(4):
        (folder / f"s{n}.yaml").write_text(f"seconds: 150\nfps: 15/8\nseeds: [{n}]\n")
    words = ("generate", folder, "--weights", models, "--out", out, "sampler.steps=8")
    stopped = command(*words, ray=True)
    while not list(out.rglob("journal.jsonl")) and stopped.poll() is None:
        time.sleep(0.05)
    stopped.send_signal(signal.SIGINT)
    text = stopped.communicate(timeout=100)[0]
    assert stopped.returncode == 75 and "the same command with --resume goes on" in text and "Traceback" not in text
    assert "running" not in {json.loads(file.read_text())["status"] for file in out.glob("*/run.json")}
    ended(command(*words, "--resume", ray=True))
    assert len(list(out.glob("*/video.mp4"))) == 4


@pytest.mark.slow
def test_a_mistake_of_a_worker_is_told_in_one_line(world: Path, models: Path, tmp_path: Path) -> None:
    """The third clip is cut off; the two before it are kept."""
    clips = [entry.file for entry in Index.open(world).entries]
    (tmp_path / "clips").mkdir()
    for n, clip in enumerate(clips[:6]):
        (tmp_path / "clips" / f"{n}.mp4").write_bytes(clip.read_bytes())
    place = index.run(tmp_path / "clips", tmp_path / "index")
    cut = Index.open(place).entries[2].file
    cut.write_bytes(cut.read_bytes()[:-100])
    process = command("encode", place, "--weights", models, "--size", "32x64", "--out", tmp_path / "out", ray=True)
    text = process.communicate(timeout=200)[0]
    assert process.returncode == 2 and text.count("drivesim:") == 1 and "Traceback" not in text, text
    assert f"drivesim: {cut}: has changed since it was indexed\n  index the folder again\n" in text
