"""The shipped data sets: content, integrity, and access through TFDS."""

import collections
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from transformer.data.shipped import MEMBERS, build, builders, files, winds
from transformer.data.shipped.recipes import (
    digits,
    emoji,
    emoji_styles,
    en_pt,
    packages,
)
from transformer.data.sources import captions as caption_source
from transformer.data.sources import fields as field_source
from transformer.data.sources import images as image_source
from transformer.data.sources import labeled_text as labeled_text_source
from transformer.data.sources import pairs as pair_source
from transformer.data.text import documents
from transformer.data.tfds import text

SPLITS = documents.SPLITS


@pytest.fixture(autouse=True, scope="module")
def cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def read_member(member, split="train"):
    """The content of a member's split."""
    if member == "austen":
        return list(files.documents(member, split))
    if member == "winds":
        return winds.load()
    readers = {"digits": files.digits, "emoji": files.emoji, "en_pt": files.sentences}
    return readers[member](split)


def test_the_shipped_files_are_small_and_all_recorded():
    whole = sorted(path for path in files.ROOT.rglob("*") if path.is_file())
    data = [path for path in whole if path.suffix not in (".py", ".pyc")]
    assert sum(path.stat().st_size for path in data) < 16_000_000
    assert sorted({path.parent.name for path in data}) == sorted(MEMBERS)
    for member in MEMBERS:
        record = files.record(member)
        hashes = {d["file"]: d["sha256"] for d in record.get("documents", [])}
        hashes |= record.get("files", {})
        beside = {"provenance.json", "LICENCE"}
        assert {p.name for p in (files.ROOT / member).iterdir()} == {*hashes, *beside}
        for name, sha256 in hashes.items():
            files.read_verified(files.ROOT / member / name, sha256)


@pytest.mark.parametrize("member", MEMBERS)
def test_a_flipped_bit_is_refused(member, tmp_path, monkeypatch):
    shutil.copytree(files.ROOT / member, tmp_path / member)
    for file in (tmp_path / member).glob("*.xz"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    monkeypatch.setattr(files, "ROOT", tmp_path)
    message = rf"{member}/.*\.xz: expected sha256 [0-9a-f]{{64}}, got [0-9a-f]{{64}}$"
    with pytest.raises(ValueError, match=message):
        read_member(member)
    file.unlink()
    with pytest.raises(ValueError, match="expected a shipped file, got none|sha256"):
        read_member(member, "validation" if "validation" in file.name else "train")


def test_digits_match_their_record():
    seen = set()
    for split, share in (("train", 8000), ("validation", 2000)):
        images, labels = files.digits(split)
        assert images.shape == (share, 28, 28, 1) and labels.shape == (share,)
        assert files.record("digits")["examples"][split] == share
        counts = np.bincount(labels)
        whole = np.array([1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978])
        part = 0.2 if split == "validation" else 0.8
        assert np.abs(counts - part * whole).max() <= 0.5
        assert np.abs(np.bincount(labels[: share // 4]) / counts - 0.25).max() < 0.1
        assert images.max() == 255 and images[:, 0].max() == 0
        seen |= {image.tobytes() for image in images}
    assert len(seen) == 10_000
    assert 0.08 < images.mean() / 255 < 0.18  # white on black


def test_pairs_are_translations_split_by_page():
    parts = {split: files.sentences(split) for split in SPLITS}
    assert [len(parts[split]) for split in SPLITS] == [27_596, 1_631]
    assert files.record("en_pt")["examples"] == {
        split: len(rows) for split, rows in parts.items()
    }
    pages = files.content("en_pt", "pages.txt.xz").decode().split("\n")
    for split, rows in parts.items():
        of_split = {en_pt.is_held_out(pages[number]) for number, *_ in rows}
        assert of_split == {split == "validation"}
    there = dict(row[1:] for row in parts["train"])
    assert (
        there["Opens a new query in SQL mode."] == "Abre uma nova consulta no modo SQL."
    )
    pages_of = [{number for number, *_ in parts[split]} for split in SPLITS]
    english = [{en_pt.letters(en) for _, en, _ in parts[split]} for split in SPLITS]
    portuguese = [{en_pt.letters(pt) for *_, pt in parts[split]} for split in SPLITS]
    for train, held in (pages_of, english, portuguese):
        assert not train & held
    for rows in parts.values():
        assert len({row[1:] for row in rows}) == len(rows)
        assert all(en_pt.is_pair(*row[1:]) for row in rows)
        joined = "".join(row[1] + row[2] for row in rows)
        assert not re.search("</?span|[\x00-\x1f]", joined)


def test_emoji_held_out_are_new_combinations_of_known_words():
    parts = {split: files.emoji(split) for split in SPLITS}
    assert [len(parts[split][1]) for split in SPLITS] == [1_659, 185]
    words, seen = [], []
    for images, named in parts.values():
        assert images.shape == (len(named), 32, 32, 3)
        blank = np.zeros((32, 32, 3), np.uint8)
        rows = [
            emoji.Emoji(one.characters, blank, tuple(one.name.values()), ())
            for one in named
        ]
        words.append(set().union(*map(emoji.vocabulary, rows)))
        pictures = {image.tobytes() for image in images}
        seen.append((pictures, {r.characters for r in rows}, {r.names for r in rows}))
    assert words[1] <= words[0]
    for train, held in zip(*seen, strict=True):
        assert not train & held
    assert len(seen[0][0] | seen[1][0]) == 1_844  # no picture twice
    everyone = {one.characters: one for _, named in parts.values() for one in named}
    assert everyone["🐧"].name == {"en": "penguin", "pt": "pinguim"}
    keywords = {"en": ["bird", "penguin"], "pt": ["animal", "pinguim"]}
    assert everyone["🐧"].keywords == keywords
    assert "🏿" not in "".join(everyone)


def test_no_style_of_train_draws_a_held_out_emoji():
    """Nor has a picture of one. Each style has an emoji once, with its name."""
    train, held = files.emoji("train")[1], files.emoji("validation")[1]
    images, styled = files.emoji_styles()
    assert images.shape == (4_019, 32, 32, 3) and len(styled) == 4_019
    counts = collections.Counter(style for style, _ in styled)
    assert counts == files.record("emoji")["styles"]
    assert counts == {"twemoji": 1_625, "fluent": 1_363, "blob": 1_031}
    assert len({(style, one.characters) for style, one in styled}) == len(styled)
    for key in ("en", "pt"):
        names = {one.name[key] for _, one in styled}
        assert names <= {one.name[key] for one in train}
        assert not names & {one.name[key] for one in held}
    pictures = list(map(bytes, images))
    assert not {*pictures} & {*map(bytes, files.emoji("validation")[0])}
    of_style = zip((style for style, _ in styled), pictures, strict=True)
    assert len({*of_style}) == len(styled)
    source = caption_source.load("emoji_styles")
    assert source.labels == ("noto", "twemoji", "fluent", "blob")
    np.testing.assert_array_equal(source.train["style"][:1659], 0)
    np.testing.assert_array_equal(source.validation["style"], 0)
    np.testing.assert_array_equal(source.train["image"][1659:], images)
    listed = [(style, one.name["en"]) for style, one in styled]
    got = [source.labels[style] for style in source.train["style"][1659:]]
    assert list(zip(got, source.train["text"][1659:], strict=True)) == listed
    plain = caption_source.load("emoji")
    np.testing.assert_array_equal(source.train["image"][:1659], plain.train["image"])
    for name in ("image", "text"):
        np.testing.assert_array_equal(source.validation[name], plain.validation[name])


def test_icons_are_found_by_characters_or_by_name(tmp_path):
    """A held-out emoji's picture is in no style; of one picture one emoji is kept."""
    body = '<rect width="4" height="4" fill="{}"/>'
    icons = {
        "icons": {name: {"body": body.format(name)} for name in ("red", "blue")},
        "aliases": {
            "crimson": {"parent": "red"},
            "turned": {"parent": "red", "rotate": 1},
        },
        "width": 4,
        "height": 4,
    }
    chars = {
        "1f600-fe0f": "red",
        "1f601": "crimson",
        "1f602": "blue",
        "1f603": "turned",
    }
    for folder, listed in (("by_code", chars), ("by_name", {})):
        (tmp_path / folder / "package").mkdir(parents=True)
        for name, data in (("icons", icons), ("chars", listed)):
            file = tmp_path / folder / "package" / f"{name}.json"
            file.write_text(json.dumps(data))
    blank = np.zeros((32, 32, 3), np.uint8)
    known = [
        emoji.Emoji(chr(0x1F600 + n), blank, (name, name), ())
        for n, name in enumerate(("red one", "red", "blue", "turned", "missing"))
    ]

    def chosen(folder, held_out):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(emoji_styles, "render", lambda svg: svg.encode())
            shrink = lambda svg: np.frombuffer(svg, np.uint8)  # noqa: E731
            arguments = tmp_path / folder, "blob", known, held_out, shrink
            return [one.characters for one in emoji_styles.drawings(*arguments)]

    first, second, third, *_ = (one.characters for one in known)
    assert chosen("by_code", set()) == [second, third]
    assert chosen("by_code", {first}) == [third]
    assert chosen("by_code", {third}) == [second]
    assert chosen("by_name", set()) == [second, third]
    assert emoji_styles.slug("woman’s hat: Côte d’Ivoire") == "womans-hat-cote-divoire"
    svg = emoji_styles.IconSet(tmp_path / "by_name").svg("", "Blue")
    assert 'viewBox="0 0 4 4"' in svg and body.format("blue") in svg


def test_emoji_have_their_colors():
    colors = {"🟥": (200, 60, 60), "🟦": (60, 130, 240), "⬛": (70, 70, 70)}
    for split in SPLITS:
        images, named = files.emoji(split)
        for image, one in zip(images, named, strict=True):
            assert image[0, 0].min() > 250 or image.std() > 0
            if one.characters in colors:
                middle = image[12:20, 12:20].reshape(-1, 3).mean(0)
                assert np.abs(middle - colors.pop(one.characters)).max() < 50
    assert not colors


def test_winds_have_the_known_climate():
    """The trade winds blow from the east, the westerlies from the west; and forecasts
    by the mean of the month err by 1.932 m/s on the last three years."""
    wind = field_source.load("winds")
    assert wind.values.shape == (132, 2, 73, 144) and wind.values.dtype == np.float32
    assert np.isfinite(wind.values).all() and 20 < np.abs(wind.values).max() < 30
    assert [str(time) for time in wind.time[[0, -1]]] == ["1982-01-01", "1992-12-01"]
    assert wind.latitude[[0, -1]].tolist() == [-90, 90] and len(wind.longitude) == 144
    east = wind.values[:, 0].mean((0, 2))
    tropics, south = np.abs(wind.latitude - 15) < 3, np.abs(wind.latitude + 50) < 3
    assert (east[tropics] < -2).all() and (east[south] > 4).all()
    train, later = wind.values[: wind.train_steps], wind.values[wind.train_steps :]
    climate = np.tile(train.reshape(8, 12, 2, 73, 144).mean(0), (3, 1, 1, 1))
    area = np.cos(np.deg2rad(wind.latitude))[:, None]
    error = np.sqrt((area / area.mean() * (climate - later) ** 2).mean())
    assert error == pytest.approx(1.932, abs=0.001)


def test_sources_give_the_content_of_the_files():
    for split in SPLITS:
        images, labels = files.digits(split)
        got = getattr(image_source.load("digits"), split)
        np.testing.assert_array_equal(got["image"], images)
        np.testing.assert_array_equal(got["label"], labels)
        assert got["label"].dtype == np.int32
        got = getattr(pair_source.load("en_pt"), split)
        expected = files.sentences(split)
        listed = zip(got["first"], got["second"], strict=True)
        assert list(listed) == [row[1:] for row in expected]
        images, named = files.emoji(split)
        for language in ("en", "pt"):
            got = getattr(caption_source.load("emoji", language=language), split)
            np.testing.assert_array_equal(got["image"], images)
            assert got["text"].tolist() == [one.name[language] for one in named]
    by_language = labeled_text_source.load("en_pt")
    assert by_language.labels == ("en", "pt")
    text, label = by_language.validation["text"], by_language.validation["label"]
    for side, name in enumerate(("first", "second")):
        expected = pair_source.load("en_pt").validation[name]
        np.testing.assert_array_equal(text[label == side], expected)
    assert image_source.load("digits").labels == tuple("0123456789")
    assert pair_source.load("en_pt").labels == ("en", "pt")


def test_tfds_gives_winds_and_keywords():
    wind = winds.load()
    builder = text.prepared_builder("winds")
    for split, start in (("train", 0), ("validation", wind.train_steps)):
        source = builder.as_data_source(split=split)
        got = np.stack([example["values"] for example in source])
        expected = wind.values[start : start + len(got)]
        np.testing.assert_array_equal(got, expected)
    assert source[0]["month"] == b"1990-01" and len(source) == 36
    assert builder.info.metadata["longitude"] == wind.longitude.tolist()
    held = text.prepared_builder("emoji").as_data_source(split="validation")
    for example, one in zip(held, files.emoji("validation")[1], strict=True):
        assert example["emoji"].decode() == one.characters
        got = [word.decode() for word in example["keywords"]["pt"]]
        assert got == one.keywords["pt"]


@pytest.mark.parametrize("member", MEMBERS)
def test_origin_and_licence_are_in_the_tfds_info(member, tmp_path):
    record, licence = files.record(member), files.license(member)
    assert record["name"] == member and len(licence.split()) > 80
    assert all(len(line) <= 120 for line in licence.split("\n"))
    (builder,) = (
        maker(data_dir=tmp_path)
        for maker in vars(builders).values()
        if isinstance(maker, type) and getattr(maker, "name", None) == member
    )
    info = builder.info
    assert licence.strip() in info.redistribution_info.license
    assert record["what"] in info.description and info.homepage.startswith("https://")
    for package in build.RECIPES[member].PACKAGES:
        assert str(package) in info.description
        assert package.sha256 in json.dumps(record)


def test_help_pages_are_parsed_as_displayed():
    marked = (
        'Press <span id="s" class="switchinline"><span hidden="true" id="MACx" '
        'class="MAC"><span class="key">Command</span></span><span hidden="true" '
        'id="defaultx"><span class="key">Ctrl</span></span></span><span>+F</span>,<br>'
        '<a href="x">then &lt;Enter&gt;</a>.<img alt="no">'
    )
    assert en_pt.plain_text(marked) == "Press Ctrl+F, then <Enter>."
    assert en_pt.is_pair("one two three", "um dois três")
    assert not en_pt.is_pair("one two", "um dois")
    assert not en_pt.is_pair("one two three", "one two three")
    assert not en_pt.is_pair("one two three", "um")


def test_images_are_downscaled_by_area_on_white():
    pixels = np.zeros((128, 136, 4), np.uint8)  # as in the font: transparent, but
    pixels[28:36, 64:72] = (255, 0, 0, 255)  # 8 x 8 red, over 1.88 x 1.88 small ones
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    image = emoji.downscale(buffer.getvalue())
    assert image.shape == (32, 32, 3) and (image[:5] == 255).all()
    assert (image[..., 0] == 255).all()
    missing = (255 - image[..., 1].astype(float)).sum() / 255
    assert missing == pytest.approx((8 * 32 / 136) ** 2, abs=0.05)
    assert (emoji.overlaps(136).sum(1) == 136).all()
    assert (emoji.overlaps(136).sum(0) == 32).all()


def test_digits_are_scaled_to_8_bits(tmp_path):
    file = tmp_path / "3.json"
    file.write_text(json.dumps({"data": [0.2] * 784 + [0.996] * 784}))
    images = digits.images(file)
    assert images.shape == (2, 28, 28) and images.dtype == np.uint8
    assert images[:, 5, 5].tolist() == [51, 254]


def test_another_package_is_refused(tmp_path):
    other = tmp_path / "other.tgz"
    other.write_bytes(b"other")
    message = r"other.tgz: expected sha256 3fb5bb.*, got d9298a10d1b0735837dc"
    with pytest.raises(ValueError, match=message):
        build.build("digits", [other], root=tmp_path / "made")
    with pytest.raises(ValueError, match=r"expected the packages Debian .*, got 1 fi"):
        build.build("en_pt", [other], root=tmp_path / "made")
    with pytest.raises(ValueError, match="expected one of austen, .*, got 'digit'"):
        build.build("digit")
    assert not (tmp_path / "made").exists()


def test_compression_is_deterministic():
    data = bytes(range(256)) * 10
    for stride in (None, 1, 3):
        packed = packages.pack(data, stride_bytes=stride)
        assert packed == packages.pack(data, stride_bytes=stride)
