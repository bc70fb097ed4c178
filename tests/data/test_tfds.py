"""TFDS data sets of images, pairs, captions and labeled text, as a user writes them."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from transformer.data.sources import captions as caption_source
from transformer.data.sources import episodes as episode_source
from transformer.data.sources import fields as field_source
from transformer.data.sources import images as image_source
from transformer.data.sources import labeled_text as labeled_text_source
from transformer.data.sources import pairs as pair_source
from transformer.data.sources import text as text_source
from transformer.data.text import documents
from transformer.data.tfds import arrays, text

SOURCES = {
    "text": text_source,
    "images": image_source,
    "pairs": pair_source,
    "captions": caption_source,
    "fields": field_source,
    "episodes": episode_source,
    "labeled_text": labeled_text_source,
}
COUNT = 20
CLASSES = ["cat", "dog", "owl"]


def picture(number, *, rows=6, channels=3):
    """Noise that depends on the number."""
    shape = (rows, 5, channels)
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return buffer.getvalue()


def info(builder, features):
    return tfds.core.DatasetInfo(
        builder=builder,
        features=tfds.features.FeaturesDict(features),
        disable_shuffling=True,
    )


class PictureProbe(tfds.core.GeneratorBasedBuilder):
    """Images given as numbers, with a class, a file name and a caption."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return info(
            self,
            {
                "image": tfds.features.Image(shape=(6, 5, 3)),
                "mask": tfds.features.Image(shape=(6, 5, 1)),
                "label": tfds.features.ClassLabel(names=CLASSES),
                "file": tfds.features.Text(),
                "caption": tfds.features.Text(),
            },
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(COUNT):
            yield (
                number,
                {
                    "image": picture(number),
                    "mask": picture(number, channels=1),
                    "label": CLASSES[number % 3],
                    "file": f"{number}.png",
                    "caption": f"é {number}",
                },
            )


class TensorProbe(tfds.core.GeneratorBasedBuilder):
    """Images that are plain tensors, splits of its own, texts in two languages."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        image = tfds.features.Tensor(shape=(6, 5, 3), dtype=np.uint8)
        languages = tfds.features.Translation(languages=("de", "fr"))
        label = tfds.features.ClassLabel(names=CLASSES)
        return info(self, {"x": image, "y": label, "says": languages})

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(range(15)),
            "validation": self._generate_examples(range(15, COUNT)),
        }

    def _generate_examples(self, numbers):
        for number in numbers:
            says = {"de": f"Zahl {number}", "fr": f"nombre {number}"}
            yield number, {"x": picture(number), "y": number % 3, "says": says}


class UnevenProbe(tfds.core.GeneratorBasedBuilder):
    """Images of different sizes, one after a while; labels that are missing."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=CLASSES),
            "other": tfds.features.ClassLabel(names=CLASSES),
        }
        return info(self, features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(COUNT):
            rows = 7 if number == 12 else 6
            image = io.BytesIO(png(picture(number, rows=rows)))
            yield number, {"image": image, "label": 0, "other": 1}


class UnlabelledProbe(tfds.core.GeneratorBasedBuilder):
    """Examples of which some have no class, as in a test set."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        label = tfds.features.ClassLabel(names=CLASSES)
        return info(self, {"image": tfds.features.Image(shape=(6, 5, 3)), "of": label})

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(COUNT):
            yield number, {"image": picture(number), "of": -1 if number == 3 else 0}


class SentenceProbe(tfds.core.GeneratorBasedBuilder):
    """Texts with a class, as of a data set of reviews."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        label = tfds.features.ClassLabel(names=CLASSES)
        return info(self, {"review": tfds.features.Text(), "mood": label})

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(COUNT):
            yield number, {"review": f"sentence {number}", "mood": number % 3}


class ForeignProbe(tfds.core.GeneratorBasedBuilder):
    """A data set that needs a package that is not there."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return info(self, {"text": tfds.features.Text()})

    def _split_generators(self, dl_manager):
        import no_such_package  # noqa: F401  # pyright: ignore[reportMissingImports]

    def _generate_examples(self):
        yield 0, {"text": ""}


class DistantProbe(tfds.core.GeneratorBasedBuilder):
    """A data set at a place that does not answer."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return info(self, {"text": tfds.features.Text()})

    def _split_generators(self, dl_manager):
        dl_manager.download("http://127.0.0.1:1/a.txt")

    def _generate_examples(self):
        yield 0, {"text": ""}


@pytest.fixture(autouse=True, scope="module")
def cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        folder = str(tmp_path_factory.mktemp("tfds"))
        patch.setattr(tfds.core.constants, "DATA_DIR", folder)
        yield


def test_images_are_read_by_tfds_name():
    got = image_source.load("picture_probe", held_out=0.25)
    expected = np.stack([picture(number) for number in range(COUNT)])
    np.testing.assert_array_equal(got.train["image"], expected[:15])
    np.testing.assert_array_equal(got.validation["image"], expected[15:])
    assert got.train["image"].dtype == np.uint8
    assert got.train["label"].tolist() == [number % 3 for number in range(15)]
    assert got.train["label"].dtype == np.int32 and got.labels == tuple(CLASSES)
    assert got.name == "picture_probe"


def test_tensors_are_read_as_images_and_existing_splits_are_used():
    got = image_source.load("tensor_probe", held_out=0.5)
    expected = np.stack([picture(number) for number in range(COUNT)])
    np.testing.assert_array_equal(got.train["image"], expected[:15])
    np.testing.assert_array_equal(got.validation["image"], expected[15:])
    assert got.validation["label"].tolist() == [0, 1, 2, 0, 1]


def test_pairs_are_any_two_text_features():
    got = pair_source.load("tensor_probe")
    assert got.labels == ("de", "fr")
    assert got.validation["first"].tolist() == [f"Zahl {n}" for n in range(15, COUNT)]
    assert got.train["second"][3] == "nombre 3"
    got = pair_source.load("picture_probe")
    assert got.labels == ("file", "caption") and got.train["second"][1] == "é 1"


def test_labeled_text_is_a_text_and_a_class_feature():
    got = labeled_text_source.load("sentence_probe", held_out=0.25)
    assert got.labels == tuple(CLASSES)
    assert got.train["text"].tolist() == [f"sentence {n}" for n in range(15)]
    assert got.validation["label"].tolist() == [n % 3 for n in range(15, COUNT)]
    assert got.train["label"].dtype == np.int32


def test_captions_are_the_text_feature_of_the_language():
    for language in ("de", "fr"):
        got = caption_source.load("tensor_probe", language=language)
        expected = {"de": "Zahl 15", "fr": "nombre 15"}[language]
        assert got.validation["text"][0] == expected
        np.testing.assert_array_equal(got.validation["image"][0], picture(15))
    assert caption_source.load("picture_probe").train["text"][2] == "é 2"
    assert (
        caption_source.load("picture_probe", language="file").train["text"][2]
        == "2.png"
    )


def test_a_second_start_decodes_nothing(monkeypatch):
    first = caption_source.load("picture_probe"), image_source.load("picture_probe")
    monkeypatch.delattr(text, "examples")
    second = caption_source.load("picture_probe"), image_source.load("picture_probe")
    for one, two in zip(first, second, strict=True):
        assert one.fingerprint == two.fingerprint
        for split in documents.SPLITS:
            there, again = getattr(one, split), getattr(two, split)
            assert list(there) == list(again)
            for key in there:
                np.testing.assert_array_equal(there[key], again[key])
    with pytest.raises(AttributeError):
        image_source.load("picture_probe", held_out=0.4)


def test_the_identity_changes_with_features_and_split():
    seen = {
        image_source.load("picture_probe").fingerprint,
        image_source.load("picture_probe", held_out=0.3).fingerprint,
        caption_source.load("picture_probe").fingerprint,
        caption_source.load("picture_probe", language="file").fingerprint,
        image_source.load("tensor_probe").fingerprint,
    }
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("images", "mnst", r"or a TFDS name, got 'mnst'; nearest names: mnist"),
        ("images", "austen", r"austen: expected one 8-bit image feature, got none"),
        ("images", "emoji", r"emoji: expected one ClassLabel feature, got none"),
        ("images", "no/x.png", r"file or folder or a TFDS name, got 'no/x.png'"),
        ("images", "~/none/", r"expected a file or folder of images, got none at"),
        ("pairs", "uneven_probe", r"expected two text features, got none"),
        ("pairs", "emoji", r"two text features, got emoji, name/en, name/pt"),
        (
            "captions",
            "uneven_probe",
            r"one text \(or one called en\) feature, got none",
        ),
        ("captions", "tensor_probe", r"called en\) feature, got says/de, says/fr"),
        ("fields", "digits", r"expected the shipped winds or .*, got 'digits'"),
        ("fields", "ocean.nc", r"file or folder of fields, got none at 'ocean.nc'"),
        ("episodes", "hopper", r"a folder of episodes, got none at 'hopper'"),
        (
            "images",
            "uneven_probe",
            r"uneven_probe, train example 12: expected image of shape \(6, 5, 3\) "
            r"like uneven_probe, train example 0, got \(7, 5, 3\)",
        ),
        ("images", "unlabelled_probe", r"train example 3: expected a label, got -1"),
        ("text", "foreign_probe", r"got one that needs no_such_package"),
        ("labeled_text", "tensor_probe", r"one text feature, got says/de, says/fr"),
        ("labeled_text", "foreign_probe", r"got one that needs no_such_package"),
        (
            "labeled_text",
            "austen",
            r"austen: expected one ClassLabel feature, got none",
        ),
    ],
)
def test_a_data_set_of_another_kind_is_refused_in_one_line(kind, name, message):
    with pytest.raises(ValueError, match=message) as caught:
        SOURCES[kind].load(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fraction", [0, 1, 1.5])
@pytest.mark.parametrize("kind", SOURCES)
def test_a_held_out_fraction_outside_0_to_1_is_refused(kind, fraction):
    with pytest.raises(ValueError, match="fraction between 0 and 1, got"):
        SOURCES[kind].load("digits", held_out=fraction)


def test_gray_images_under_a_color_feature_are_refused():
    with pytest.raises(ValueError, match=r"here: expected .* got the shape \(6, 5\)"):
        arrays.stack([arrays._pixels(np.zeros((6, 5)), "here")], ["here"], "image")


def test_a_place_that_does_not_answer_is_not_waited_for(monkeypatch):
    waits = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", waits.append)
    with pytest.raises(
        ValueError, match="TFDS to prepare it, got .*127.0.0.1"
    ) as caught:
        text_source.load("distant_probe")
    assert "\n" not in str(caught.value) and 1 < sum(waits) < 10
