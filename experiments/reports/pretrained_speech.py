"""Error rates and transcripts of held-out recordings."""

from __future__ import annotations

from typing import Any

from transformer.data.records import Records
from transformer.evaluation import text_scores
from transformer.generation import transcription
from transformer.interchange import tasks
from transformer.interchange.speech_rows import SpeechCodec

# The first held-out recordings, and those that are transcribed at a time.
RECORDINGS, BATCH = 200, 8


def transcripts(
    model: tasks.Model, codec: SpeechCodec, files: list[str], params: Any
) -> list[str]:
    """What the model writes of each recording, as the verb `transcribe`."""
    transcriber = transcription.make_transcriber(
        model.net, codec.tokens, length=model.sizes.target_length
    )
    texts: list[str] = []
    for start in range(0, len(files), BATCH):
        chosen = files[start : start + BATCH]
        # The last batch is filled up, so that nothing is compiled for it.
        rows = [*chosen, *chosen[-1:] * (min(BATCH, len(files)) - len(chosen))]
        _, found = transcription.transcribe_windows(
            transcriber,
            params,
            codec.tokens,
            [codec.frames(file) for file in rows],
            language=codec.language,
            task=codec.task,
            batch=BATCH,
        )
        texts += [codec.tokenizer.decode(ids).strip() for ids in found[: len(chosen)]]
    return texts


def report(
    model: tasks.Model, codec: SpeechCodec, data: Records, params: Any
) -> dict[str, Any]:
    """`speech_scores`, of how many recordings they are, and the texts by file name."""
    files = data.validation["file"].tolist()
    chosen, references = files[:RECORDINGS], data.validation["text"][:RECORDINGS]
    texts = transcripts(model, codec, chosen, params)
    scores: dict[str, Any] = dict(text_scores.speech_scores(texts, references))
    scores |= {"recordings": len(chosen), "recordings/held_out": len(files)}
    lines = (
        f"{file}\nreference   {reference}\ntranscript  {text}\n"
        for file, reference, text in zip(chosen, references, texts, strict=True)
    )
    return {"results.json": scores, "transcripts.txt": "\n".join(lines)}
