"""The table of docs/scaling.md is that of the code."""

from pathlib import Path

from transformer.training.scaling import scale

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "scaling.md").read_text()
DEPTHS = (3, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128)


def rounded(number: int) -> str:
    """To three digits, with a letter for thousands, millions, billions, trillions."""
    digits = f"{number:.2e}"
    power = int(digits.split("e")[1]) // 3
    return f"{float(digits) / 1000**power:.3g} {' kMBT'[power]}".strip()


def row(depth: int) -> str:
    found = scale(depth, vocab_size=2**15)
    cells = [
        *(depth, found.width, found.heads, found.kv_heads, found.sequence_length),
        *(found.batch_size, rounded(found.batch_size * found.sequence_length)),
        *(f"{found.steps:,}", found.adam_learning_rate, found.chunks),
        *(rounded(found.parameters), rounded(found.tokens)),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def test_the_page_has_the_sizes_of_each_depth() -> None:
    table = PAGE.split("<!-- depths -->")[1].split("<!-- end -->")[0]
    expected = [row(depth) for depth in DEPTHS]
    assert table.strip().splitlines()[2:] == expected, "\n".join(expected)
