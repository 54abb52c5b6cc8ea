"""Stage 1: a WordPiece vocabulary whose tokens are Korean morphemes.

A trainer that counts characters merges stems with their particles, and then a question's word and the same word in a
passage are two tokens. Here each Korean word is cut where Kiwi cuts it: its first morpheme gives a token that begins a
word, the following ones tokens that go on (`##`), and so do whole runs of particles and endings. The greedy longest match
of WordPiece then finds stems again without Kiwi. English tokens are those of the English model, so that they keep its
embeddings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Sejong tags of what goes on a stem: particles, endings, suffixes and the copula.
_FUNCTIONAL = ("J", "E", "XS", "VC")
_NATIVE_WEIGHT = 8
_RAREST = 2 * _NATIVE_WEIGHT  # what one text alone uses once is spelt in smaller tokens
_HANGUL = re.compile("[가-힣]")
_KOREAN_WORD = re.compile("[가-힣]+")


def build_vocabulary(
    native: Sequence[str], translated: Sequence[str], english: Sequence[str], english_tokenizer: Tokenizer, size: int
) -> list[str]:
    """Return the tokens: special ones, single characters, English ones, then the most frequent morphemes.

    Args:
        native: texts written in Korean, which weigh more than translations.
        translated: Korean translations.
        english: English texts.
        english_tokenizer: the WordPiece tokenizer whose tokens are taken over.
        size: tokens in all.
    """
    morphemes: Counter[str] = Counter()
    for texts, weight in ((native, _NATIVE_WEIGHT), (translated, 1)):
        for token, count in _morphemes(texts).items():
            morphemes[token] += weight * count
    known = english_tokenizer.get_vocab()
    latin: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    for encoding in english_tokenizer.encode_batch_fast(list(english), add_special_tokens=False):
        latin.update(encoding.tokens)
    for text in (*native, *translated):
        characters.update(text.lower())
    # Latin words within Korean text count more: they are what a Korean reader searches for.
    for text in (*native, *translated):
        for word in re.findall(r"[a-z0-9]+", text.lower()):
            if word in known:
                latin[word] += 3
    tokens = dict.fromkeys(SPECIAL)
    tokens |= dict.fromkeys(form for letter in map(chr, range(33, 127)) for form in (letter.lower(), "##" + letter.lower()))
    tokens |= dict.fromkeys(form for letter in _syllables() for form in (letter, "##" + letter))
    others = [letter for letter, count in characters.most_common() if count >= 2 and not letter.isspace()]
    tokens |= dict.fromkeys(letter for letter in others if not _HANGUL.match(letter))
    # The English model's vocabulary is in the order of frequency: its head is everybody's English, the counts are ours.
    head = sorted((index, token) for token, index in known.items() if token.removeprefix("##").isascii())
    tokens |= dict.fromkeys(token for _, token in head[: size // 4] if token.removeprefix("##").isalpha())
    tokens |= dict.fromkeys(token for token, count in latin.most_common(size // 6) if token not in SPECIAL and count >= 3)
    for token, count in morphemes.most_common():
        if len(tokens) >= size or count < _RAREST:
            break
        tokens.setdefault(token)
    return list(tokens)


def build_tokenizer(tokens: Sequence[str], max_length: int) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a vocabulary: composed Hangul, lower case, pairs as BERT's."""
    ids = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=60))  # noqa: S106
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.BertNormalizer(strip_accents=False, lowercase=True, handle_chinese_chars=True)]
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",  # noqa: S106  tokens, not secrets
        unk_token="[UNK]",  # noqa: S106
        cls_token="[CLS]",  # noqa: S106
        sep_token="[SEP]",  # noqa: S106
        mask_token="[MASK]",  # noqa: S106
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _syllables() -> Iterable[str]:
    """Yield the 2,350 syllables of KS X 1001, which spell all but the rarest Korean."""
    for code in range(ord("가"), ord("힣") + 1):
        if len(chr(code).encode("euc_kr", errors="ignore")) == 2:
            yield chr(code)


def _morphemes(texts: Sequence[str]) -> Counter[str]:
    """Count the tokens of Korean words as Kiwi cuts them."""
    from kiwipiepy import Kiwi

    counts: Counter[str] = Counter()
    for text, morphemes in zip(texts, Kiwi(num_workers=2).tokenize(list(texts)), strict=True):
        starts = {morpheme.start: morpheme.tag for morpheme in morphemes if morpheme.len}
        for word in _KOREAN_WORD.finditer(text):
            # A contraction has several morphemes at one place: they stay together.
            cuts = sorted({word.start()} | {place for place in starts if word.start() < place < word.end()})
            ends = [*cuts[1:], word.end()]
            tail = len(cuts)
            while tail > 1 and starts[cuts[tail - 1]].startswith(_FUNCTIONAL):
                tail -= 1
            for first, (start, end) in enumerate(zip(cuts, ends, strict=True)):
                token = text[start:end]
                if start > 0 and text[start - 1].isalnum():  # goes on a word, a Latin one perhaps
                    token = "##" + token
                counts[token] += 1
                if tail <= first < len(cuts) - 1:
                    counts["##" + text[start : word.end()]] += 1
    return counts
