"""Texts that tokenizers disagree on."""

HARD = [
    "The capital  of   Portugal is Lisbon.",
    " leading and trailing ",
    "cafe\u0301 na\u00efve \u00c5ngstr\u00f6m A\u030a",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 "
    "\U0001f1f5\U0001f1f9 \U0001f44d\U0001f3fd",
    "\u4f60\u597d\u4e16\u754c\uff0c\u3053\u3093\u306b\u3061\u306f \uc548\ub155",
    "\u0634\u0643\u0631\u0627 \u05e9\u05dc\u05d5\u05dd \u202eabc\u202c",
    "a\x00b\x07c\x1b[0m\x7f",
    "tab\there\nline\r\nend\n\n\n  x",
    "1234567890 3.14159 1,000,000 \u0663\u0664 \u00bd",
    "x" * 120 + " antidisestablishmentarianism",
    "\ufb01ne \u2460 \uff21\uff22 \u00a0nbsp\u2003em\u200bzero",
    "I'm you'RE they'll don't 'tis",
    "def f(x): return x**2  # ok!?",
    "\u2581under \u2581\u2581",
    "\U00020bb7\U0010ffff\ue000",
    " ",
    "  ",
    "\n",
]
# With the language codes and special tokens of Marian.
MARKED = [
    ">>fra<< The capital",
    ">>fra<<The capital",
    ">>deu<< The capital",
    "The >>fra<< capital",
    " >>fra<< capital",
    ">> The capital",
    "The</s> capital <pad>of",
    "<unk>",
    "",
]
