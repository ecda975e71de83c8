"""The same items in the same order for any workers and after any restart; the cache gives back what it was given."""

import json
import warnings
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim import weights
from drivesim.data import latent_writer, latents, loader
from drivesim.data.index import Entry, Index
from drivesim.data.latent_windows import LatentData
from drivesim.data.latent_writer import LatentWriter
from drivesim.data.latents import About, LatentCache
from drivesim.data.loader import ClipData
from drivesim.data.order import Batches, Order
from drivesim.data.sources import Recipe, build
from drivesim.errors import Mistake
from drivesim.scene import to_pixels

from .numbered import numbers, write

FPS = Fraction(15, 2)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loader")
    for n in range(5):
        write(folder / "clips" / f"{n}.mp4", 25 + 10 * n, Fraction(25), first=40 * n)
    write(folder / "clips" / "short.mp4", 4, Fraction(25), first=250)
    write(folder / "clips" / "slow.mp4", 20, Fraction(2), first=220)
    build(folder / "clips", folder / "index")
    return folder / "index"


def data(index: Path, **more: object) -> ClipData:
    values: dict[str, object] = dict(frames=4, fps=FPS, size=(64, 128), batch=3, steps=8, seed=5)
    return ClipData(index, **values | more)  # type: ignore[arg-type]


def test_order_is_a_permutation_each_epoch_and_pure() -> None:
    order = Order(seed=3, count=37)
    epochs = [[order.window(e * 37 + n) for n in range(37)] for e in range(3)]
    assert all(sorted(epoch) == list(range(37)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(37))
    assert [Order(3, 37).window(n) for n in (80, 5)] == [epochs[2][6], epochs[0][5]]
    assert Order(4, 37).window(5) != order.window(5) or Order(4, 37).window(6) != order.window(6)


def test_processes_share_the_samples_of_a_step() -> None:
    alone = list(Batches(6, 2, 5))
    two = [a + b for a, b in zip(Batches(3, 2, 5, 0, 2), Batches(3, 2, 5, 1, 2), strict=True)]
    assert alone == two and alone[0][0] == 12 and len(Batches(6, 2, 5)) == 5


def test_same_items_in_same_order_for_any_workers_and_restart(indexed: Path) -> None:
    plain = list(data(indexed).train_dataloader())
    assert [batch["sample"].tolist() for batch in plain] == [[3 * s, 3 * s + 1, 3 * s + 2] for s in range(8)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on two cores torch speaks of the number of workers
        workers = list(data(indexed, workers=2).train_dataloader())
    later = list(data(indexed, start_step=5).train_dataloader())
    unkept = list(data(indexed, keep=0).train_dataloader())
    for one, other in [
        *zip(plain, workers, strict=True),
        *zip(plain[5:], later, strict=True),
        *zip(plain, unkept, strict=True),
    ]:
        assert one.keys() == other.keys() == {"video", "night", "cars", "sample"}
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(
        not torch.equal(a["video"], b["video"])
        for a, b in zip(plain, data(indexed, seed=6).train_dataloader(), strict=True)
    )


def test_batches_are_as_agreed(indexed: Path) -> None:
    batch = next(iter(data(indexed).train_dataloader()))
    assert batch["video"].shape == (3, 4, 3, 64, 128) and batch["video"].dtype == torch.float32
    assert -1 <= batch["video"].min() < -0.9 and 0.9 < batch["video"].max() <= 1
    assert batch["night"].dtype == batch["cars"].dtype == batch["sample"].dtype == torch.long
    assert batch["cars"].tolist() == [-1] * 3 and set(batch["night"].tolist()) <= {0, 1}


def test_frames_of_a_window_are_evenly_spaced_and_starts_vary(indexed: Path) -> None:
    seen = set()
    for batch in data(indexed, steps=30).train_dataloader():
        for clip in batch["video"]:
            got = numbers(to_pixels(clip))
            assert all(gap in (3, 4) for gap in np.diff(got)), got  # 25 / 7.5 = 3.33
            seen.add(got[0])
    assert len(seen) > 12


def test_every_window_of_a_clip_stays_inside(indexed: Path) -> None:
    for entry in Index.open(indexed).entries:
        for frames in (1, 4):
            for n in range(loader.count_windows(entry.seconds, frames, FPS)):
                window = loader.window(entry, n, frames, FPS)
                assert window.slack > 0
                assert window.first + window.slack + (frames - 1) / FPS < entry.seconds


def test_short_and_slow_clips_are_counted_none_at_all_is_a_mistake(indexed: Path) -> None:
    left_out = data(indexed).left_out
    assert left_out["shorter than a window"] == 1 and left_out["fewer than 15/2 frames a second"] == 1
    assert not +data(indexed, frames=1, fps=Fraction(1)).left_out
    with pytest.raises(Mistake, match="no clip gives 500 frames at 15/2 fps"):
        data(indexed, frames=500)


def test_clips_with_smaller_frames_are_left_out_where_detail_is_learned(indexed: Path) -> None:
    entry = loader.Index.open(indexed).entries[0]
    larger = (entry.height + 2, entry.width)
    assert not any("smaller" in reason for reason in data(indexed, size=larger).left_out)
    assert (
        data(indexed, size=(entry.height, entry.width), enlarge=False).left_out.keys() == data(indexed).left_out.keys()
    )
    with pytest.raises(Mistake, match=rf"smaller than {larger[0]}x{larger[1]}"):
        data(indexed, size=larger, enlarge=False)


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "clips" / "a.mp4", 50, Fraction(25))
    build(tmp_path / "clips", tmp_path / "index")
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(Mistake, match="has changed"):
        data(tmp_path / "index")
    path.unlink()
    with pytest.raises(Mistake, match="is gone"):
        data(tmp_path / "index")


def test_loaders_leave_the_global_random_state_alone(indexed: Path) -> None:
    before = torch.get_rng_state()
    next(iter(data(indexed).train_dataloader()))
    assert torch.equal(before, torch.get_rng_state())


ABOUT = About("index", "a" * 64, (64, 128), "15/8", 1, "32", (8, 4, 6))


def entry(n: int, **more: object) -> Entry:
    values = dict(path="p", root="/", bytes=1, frames=2, width=4, height=4, rotation=0, fps_num=30, fps_den=1)
    return Entry(clip_id=str(n), drive=str(n), fps_stated=False, seconds=9.0, **values | more)  # type: ignore[arg-type]


def cache(folder: Path, lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """A cache with small shards; returns its content. Element 0 of every frame is clip * 100 + frame."""
    monkeypatch.setattr(latent_writer, "SHARD_BYTES", 4000)
    folder.mkdir()
    generator = np.random.default_rng(0)
    content = []
    with LatentWriter(folder, ABOUT) as writer:
        for n, length in enumerate(lengths):
            moments = generator.normal(size=(length, 8, 4, 6)).astype(np.float32)
            moments[:, 0, 0, 0] = 100 * n + np.arange(length)
            split = "val" if n == 1 else "train"
            row = entry(n, split=split, night=None if n == 2 else n % 2 == 0, cars=None if n == 2 else n)
            writer.add(row, moments, Fraction(15, 8), Fraction(n, 30))
            content.append(moments)
    return content


def test_cache_gives_back_what_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = cache(tmp_path / "cache", [9, 12, 5, 30, 8], monkeypatch)
    opened = LatentCache.open(tmp_path / "cache", autoencoder="a" * 64)
    assert len(list((tmp_path / "cache").glob("*.npy"))) > 2
    assert (opened.size, opened.fps, opened.fingerprint) == ((64, 128), Fraction(15, 8), ABOUT.fingerprint)
    for sequence, moments in zip(opened.sequences, content, strict=True):
        np.testing.assert_array_equal(opened.read(sequence, 0, sequence.frames), moments.astype(np.float16))
        np.testing.assert_array_equal(opened.read(sequence, 2, 3), moments[2:5].astype(np.float16))
    assert [s.split for s in opened.sequences] == ["train", "val", "train", "train", "train"]
    assert Fraction(opened.sequences[3].start_num, opened.sequences[3].start_den) == Fraction(1, 10)


def test_cache_refuses_other_weights_and_alteration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache"
    cache(folder, [9, 12], monkeypatch)
    with pytest.raises(Mistake, match="another autoencoder"):
        LatentCache.open(folder, autoencoder="b" * 64)
    about = json.loads((folder / latents.ABOUT).read_text())
    (folder / latents.ABOUT).write_text(json.dumps({**about, "fps": "30"}))
    with pytest.raises(Mistake, match="fingerprint"):
        LatentCache.open(folder)
    (folder / latents.ABOUT).write_text(json.dumps(about))
    shard = folder / "000000.npy"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(Mistake, match="not whole"):
        LatentCache.open(folder)
    with pytest.raises(Mistake, match="not a latent cache"):
        LatentCache.open(tmp_path)


@pytest.mark.parametrize(
    "other", [{"index": "x"}, {"size": (64, 64)}, {"fps": "2"}, {"phases": 2}, {"precision": "bf16"}]
)
def test_fingerprint_changes_with_what_made_it(other: dict[str, object]) -> None:
    assert replace(ABOUT, **other).fingerprint != ABOUT.fingerprint  # type: ignore[arg-type]


def test_latents_come_in_pure_order_for_any_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache(tmp_path / "cache", [9, 12, 5, 30, 3], monkeypatch)

    def batches(**more: object) -> list[dict[str, torch.Tensor]]:
        values: dict[str, object] = dict(frames=4, batch=3, steps=12, seed=1)
        return list(LatentData(tmp_path / "cache", **values | more).train_dataloader())  # type: ignore[arg-type]

    plain, workers, later = batches(), batches(workers=1), batches(start_step=7)
    for one, other in [*zip(plain, workers, strict=True), *zip(plain[7:], later, strict=True)]:
        assert all(torch.equal(one[name], other[name]) for name in one)
    starts = set()
    for batch in plain:
        assert batch["moments"].shape == (3, 4, 8, 4, 6) and batch["moments"].dtype == torch.float32
        marks = batch["moments"][:, :, 0, 0, 0]
        assert torch.equal(marks - marks[:, :1], torch.arange(4.0).expand(3, 4))  # consecutive frames of one clip
        clip = (marks[:, 0] // 100).long()
        assert set(clip.tolist()) <= {0, 2, 3}  # 1 is held back, 4 is too short
        assert torch.equal(batch["cars"], torch.where(clip == 2, -1, clip))
        assert torch.equal(batch["night"], torch.where(clip == 2, -1, (clip % 2 == 0).long()))
        starts |= set(marks[:, 0].long().tolist())
    assert len(starts) > 10
    opened = LatentData(tmp_path / "cache", frames=4, batch=3, steps=1)
    assert opened.left_out == {"shorter than a window": 1}
    with pytest.raises(Mistake, match="no sequence has 31 frames .* longest has 30"):
        LatentData(tmp_path / "cache", frames=31, batch=3, steps=1)


def test_encode_is_the_autoencoder_frame_by_frame(indexed: Path, tmp_path: Path) -> None:
    from drivesim import config
    from drivesim.jobs import encode
    from drivesim.models.autoencoder import Autoencoder, AutoencoderConfig
    from drivesim.scene import to_model

    settings = AutoencoderConfig(channels=(8, 8, 8), blocks=1, latent=4, attention=False, groups=4)
    file = tmp_path / "weights" / "autoencoder.safetensors"
    sha = weights.save(file, Autoencoder(settings).state_dict(), weights.Header("autoencoder", config.plain(settings)))
    out = encode.run(indexed, file.parent, tmp_path / "cache", Fraction(15, 2), (16, 32), "cpu", phases=2, batch=3)
    opened, index = LatentCache.open(out, autoencoder=sha), Index.open(indexed)
    assert opened.about.index == index.digest and opened.about.shape == (8, 4, 8)
    model, by_id = Autoencoder.load(file), {e.clip_id: e for e in index.entries}
    for sequence in opened.sequences[:4]:
        start = Fraction(sequence.start_num, sequence.start_den)
        clip = loader.video.read(
            by_id[sequence.clip_id].file, fps=FPS, start=start, frames=sequence.frames, size=(16, 32)
        )
        with torch.inference_mode():
            expected = model.encode(to_model(clip.frames)).numpy()
        np.testing.assert_allclose(opened.read(sequence, 0, sequence.frames), expected, rtol=1e-3, atol=2e-3)
    phases = {Fraction(s.start_num, s.start_den) for s in opened.sequences}
    assert phases == {Fraction(0), Fraction(1, 15)}
    assert {e.path for e in index.entries} - {by_id[s.clip_id].path for s in opened.sequences} == {"slow.mp4"}
    with pytest.raises(Mistake, match="no clip has 60 frames a second"):
        encode.run(indexed, file.parent, tmp_path / "other", Fraction(60), (16, 32), "cpu")
    with pytest.raises(Mistake, match="does not divide"):
        encode.run(indexed, file.parent, tmp_path / "other", Fraction(15, 2), (30, 64), "cpu")
    with pytest.raises(Mistake, match="no such weight file"):
        encode.run(indexed, tmp_path, tmp_path / "other", Fraction(15, 2), (16, 32), "cpu")
    assert not (tmp_path / "other").exists()


def test_a_crop_is_a_part_of_the_whole_at_a_place_of_its_own(indexed: Path) -> None:
    """A function of (seed, sample): the same in any batch and after a restart, and for all frames of a window."""
    whole = {int(n): v for b in data(indexed).train_dataloader() for n, v in zip(b["sample"], b["video"], strict=True)}
    cropped = list(data(indexed, crop=(24, 40)).train_dataloader())
    places = set()
    for batch in cropped:
        for sample, video in zip(batch["sample"].tolist(), batch["video"], strict=True):
            top, left = Order(5, 1).place(sample, 64 - 24, 128 - 40)
            assert torch.equal(video, whole[sample][..., top : top + 24, left : left + 40])
            places.add((top, left))
    assert len(places) > 20
    other = list(data(indexed, crop=(24, 40), batch=6, start_step=2, steps=4).train_dataloader())
    assert torch.equal(other[0]["video"], torch.cat([cropped[4]["video"], cropped[5]["video"]]))
    again = Order(6, 1)
    assert [again.place(n, 40, 88) for n in range(4)] != [Order(5, 1).place(n, 40, 88) for n in range(4)]
    drawn = [Order(5, 1).place(n, 2, 0) for n in range(60)]
    assert {top for top, _ in drawn} == {0, 1, 2} and {left for _, left in drawn} == {0}


def test_a_crop_that_is_no_part_is_a_mistake(indexed: Path) -> None:
    for crop in ((65, 40), (24, 129), (0, 40)):
        with pytest.raises(Mistake, match="is no part of 64x128"):
            data(indexed, crop=crop)


def damaged_midway(path: Path) -> None:
    """Bytes behind the first half are others of the same number: what an index looks at can still be decoded."""
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat")
    data[start + (len(data) - start) // 3 : -64] = b"\x55" * (len(data) - 64 - start - (len(data) - start) // 3)
    path.write_bytes(bytes(data))


def test_a_tenth_that_is_gone_changed_or_cannot_be_decoded_is_left_out(tmp_path: Path) -> None:
    for n in range(30):
        write(tmp_path / "clips" / f"{n:02d}.mp4", 50, Fraction(25), first=n)
    build(tmp_path / "clips", tmp_path / "index", Recipe(val=0))
    opened = loader.Index.open(tmp_path / "index")
    gone, changed, broken = (entry.file for entry in opened.entries[:3])
    gone.unlink()
    replaced = bytearray(changed.read_bytes())
    replaced[len(replaced) // 2] ^= 1
    changed.write_bytes(replaced)
    given = data(tmp_path / "index", keep=0)
    assert {"is gone since it was indexed": 1, "has changed since it was indexed": 1}.items() <= given.left_out.items()
    given.quarantine = tmp_path / "quarantine.jsonl"
    damaged_midway(broken)  # while the training goes on
    clips = given.training()
    first = [clips[sample]["video"] for sample in range(60)]
    (line,) = (tmp_path / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["path"] == broken.name and "damaged" in json.loads(line)["reason"]
    again = [given.training()[sample]["video"] for sample in range(30, 60)]
    assert all(torch.equal(a, b) for a, b in zip(first[30:], again, strict=True)), "what came before must not matter"
    for entry in opened.entries[3:8]:
        damaged_midway(entry.file)
    clips = given.training()
    with pytest.raises(Mistake, match="more than a tenth of the clips cannot be read"):
        [clips[sample] for sample in range(60)]
