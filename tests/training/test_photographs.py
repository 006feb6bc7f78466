"""Training photographs: found, decoded, cropped; the same again for the same seed and step."""

import os

import numpy as np
import pytest
from PIL import Image
from tiny_training import photograph

from training import synthetic
from training.photographs import Batches, Photographs, digest, find_images, hold_out


def test_data_skips_what_cannot_be_used(folder, tmp_path):
    Image.fromarray(photograph(7, 63, 200)).save(tmp_path / "small.png")
    Image.fromarray(photograph(8)[:, :, 0]).save(tmp_path / "grey.png")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("no image either")
    said = []
    paths = find_images(folder) + find_images(tmp_path)
    photographs = Photographs(paths, 64, 1 << 30, 2, said.append)
    assert len(photographs) == 6 and photographs.too_small == 1
    assert len(said) == 1 and "broken.jpg" in said[0]
    assert photographs.batch(7, 64, 1, 0).shape == (7, 64, 64, 3)
    photographs.close()


def test_batches_do_not_depend_on_memory_or_on_where_they_start(folder):
    paths = find_images(folder)
    cached = Photographs(paths, 64, 1 << 30, 2)
    decoded = Photographs(paths, 64, 40_000, 2)
    assert cached.in_memory == 5 and decoded.in_memory == 1
    wanted = [cached.batch(3, 64, 5, step) for step in range(4)]
    assert not np.array_equal(wanted[0], wanted[1])
    for photographs, start in ((cached, 0), (decoded, 0), (cached, 2)):
        batches = Batches(photographs, 3, 64, 5, start)
        for step in range(start, 4):
            np.testing.assert_array_equal(batches.next(), wanted[step])
        batches.close()
    cached.close()
    decoded.close()


def test_epochs_show_each_image_once(folder):
    photographs = Photographs(find_images(folder), 96, 1 << 30, 2)
    stored = [photographs._decoded(i) for i in range(5)]
    found = []
    for crop in photographs.batch(5, 96, 3, 2):
        for index, pixels in enumerate(stored):
            flipped = [pixels[::a, ::b] for a in (1, -1) for b in (1, -1)]
            shifts = [f[:, s : s + 96] for f in flipped for s in range(17)]
            if any(np.array_equal(crop, s) for s in shifts):
                found.append(index)
    assert sorted(found) == [0, 1, 2, 3, 4]
    photographs.close()


def test_nothing_usable_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="5 of 5 are smaller"):
        Photographs(find_images(folder), 128, 1 << 30, 2)
    with pytest.raises(ValueError, match="hold no image"):
        find_images(tmp_path)


def test_hold_out_depends_on_names_only(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(40)]
    kept, held = hold_out(paths)
    assert len(held) == 5 and sorted(kept + held) == sorted(paths)
    again = hold_out([p.parent / "elsewhere" / p.name for p in paths[::-1]])[1]
    assert [p.name for p in again] == [p.name for p in held]
    odd = [tmp_path / f"{i}-\udcff.png" for i in range(8)]  # names that are no UTF-8
    assert len(hold_out(odd)[1]) == 1 and len(digest(odd)) == 16


def test_links_are_followed_once_and_without_loops(folder, tmp_path):
    (tmp_path / "photos" / "b").mkdir(parents=True)
    Image.fromarray(photograph(1)).save(tmp_path / "photos" / "b" / "1.png")
    links = {"a": "b", "outside": folder, "b/loop": "..", "0.png": "b/1.png", "dead": "nowhere"}
    for name, target in links.items():
        try:
            (tmp_path / "photos" / name).symlink_to(target)
        except OSError:
            pytest.skip("this system makes no links")
    found = [path.relative_to(tmp_path / "photos") for path in find_images(tmp_path / "photos")]
    outside = [f"outside/{name}" for name in ("0.png", "1.png", "2.png", "3.png", "more/4.png")]
    assert [path.as_posix() for path in found] == ["b/1.png", *outside]


def test_a_share_of_the_crops_is_drawn_the_same_ones_each_time(folder):
    paths = find_images(folder)
    plain, mixed = (Photographs(paths, 64, 1 << 30, 2, drawn=share) for share in (0.0, 0.25))
    drawn = 0
    for step in range(40):
        batch = mixed.batch(4, 64, 3, step)
        np.testing.assert_array_equal(batch, mixed.batch(4, 64, 3, step))
        for crop, photographed in zip(batch, plain.batch(4, 64, 3, step)):
            drawn += not np.array_equal(crop, photographed)  # the others keep their places
    assert 25 < drawn < 55
    for photographs in (plain, mixed):
        photographs.close()


def test_drawn_crops_depend_on_their_generator_and_cover_flat_and_busy_ones():
    crops = [synthetic.crop(np.random.default_rng(i), 64) for i in range(60)]
    again = [synthetic.crop(np.random.default_rng(i), 64) for i in range(60)]
    np.testing.assert_array_equal(crops, again)
    assert {crop.shape for crop in crops} == {(64, 64, 3)}
    assert {crop.dtype for crop in crops} == {np.dtype(np.uint8)}
    colours = [len(np.unique(crop.reshape(-1, 3), axis=0)) for crop in crops]
    assert colours.count(1) > 5 and sum(count > 100 for count in colours) > 5
    saturated = [np.ptp(crop.reshape(-1, 3).mean(0)) > 150 for crop in crops]
    assert sum(saturated) > 5


def test_a_digest_stands_for_names_and_groups(tmp_path):
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    assert digest(paths, []) == digest([path.parent / "x" / path.name for path in paths], [])
    assert len({digest(paths, []), digest(paths[:1], paths[1:]), digest(paths[:1], [])}) == 3


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_heic_is_read_with_and_without_room_for_it(tmp_path, cache_bytes):
    pytest.importorskip("pillow_heif").register_heif_opener()
    Image.fromarray(photograph(1)).save(tmp_path / "a.heic")
    photographs = Photographs(find_images(tmp_path), 64, cache_bytes, 1)
    assert len(photographs) == 1 and photographs.unreadable == []
    assert photographs.batch(1, 64, 1, 0).shape == (1, 64, 64, 3)
    photographs.close()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "p.jpg")
    Image.fromarray(photograph(1)).save(tmp_path / "a.png")
    assert find_images(tmp_path) == [tmp_path / "a.png"]
