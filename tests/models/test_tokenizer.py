# SPDX-License-Identifier: Apache-2.0
"""Tokenizer folders: the same ids whoever reads them, nothing lost, nothing added, the facts training relies on."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from steerlm.attributes import AttributeSchema
from steerlm.errors import ModelError
from steerlm.models.tokenizer import copy_tokenizer, load_tokenizer, pad_id
from steerlm.prompt import LABEL_MARK, SYSTEM_PROMPT, encode, render, render_prompt, text_of
from steerlm.records import Conversation, Turn
from steerlm.training.objectives.tokens import Encoder
from tests.byte_tokenizer import byte_tokenizer

SOURCES = {
    "tok512": "stories260K",
    "llama2": "tokenizers/llama2.tokenizer.model",
    "llama3": "tokenizers/llama3.tokenizer.model",
}
LABEL = AttributeSchema().format(dict.fromkeys(AttributeSchema().names, 4))


@pytest.fixture(scope="module", params=list(SOURCES))
def real(request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder made of each tokenizer of the shared data."""
    folder = tmp_path_factory.mktemp(request.param)
    copy_tokenizer(shared_data / SOURCES[request.param], folder)
    return folder


def single_turns(shared_data: Path, count: int) -> list[tuple[str, str]]:
    """Questions and answers of OASST1, a sample that does not change."""
    lines = (shared_data / "oasst1" / "en-validation.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    text = {row["message_id"]: row for row in rows}
    pairs = [
        (text[row["parent_id"]]["text"], row["text"])
        for row in rows
        if row["role"] == "assistant" and row["parent_id"] in text and text[row["parent_id"]]["parent_id"] is None
    ]
    return random.Random(0).sample(pairs, count)


def test_facts_of_the_three_tokenizers(real: Path, shared_data: Path) -> None:
    """What decisions.md saw: the mark ends in '>', and a server's prompt is a prefix of what was trained."""
    tokenizer = load_tokenizer(real)
    mark = tokenizer(LABEL_MARK, add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(mark)[-1] == ">"
    for question, answer in single_turns(shared_data, 60):
        user = Turn(value=question, speaker="User")
        whole = Conversation(conversations=[user, Turn(value=answer, speaker="Assistant", label=LABEL)], system="Hi.")
        (tokens,) = Encoder(tokenizer)([text_of(render(whole))], offsets=True)
        encoded = encode(render(whole), tokens)
        prompt = tokenizer(render_prompt([user], LABEL, "Hi."), add_special_tokens=False)["input_ids"]
        assert encoded.ids[: len(prompt)] == prompt and encoded.joints == 0
        assert encoded.learned.index(True) == len(prompt)
        assert tokenizer.decode(encoded.ids) == text_of(render(whole))


def test_a_folder_made_here_loads_as_by_auto_tokenizer(real: Path) -> None:
    ours, theirs = load_tokenizer(real), AutoTokenizer.from_pretrained(real)
    assert type(ours) is type(theirs) and ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    for name in ("eos_token_id", "bos_token_id", "pad_token_id", "padding_side", "chat_template", "all_special_ids"):
        assert getattr(ours, name) == getattr(theirs, name)


def test_a_folder_made_here_loads_without_torch(tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    program = (
        "import sys\n"
        "from steerlm.models.tokenizer import load_tokenizer\n"
        "load_tokenizer(sys.argv[1])\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=120)


def test_ids_are_those_of_the_reference_tokenizers(real: Path, shared_data: Path) -> None:
    """Of sentencepiece (single spaces; decisions name the difference) and of tiktoken with Llama 3's pattern."""
    tokenizer = load_tokenizer(real)
    texts = [" ".join(part.split(" ")) for pair in single_turns(shared_data, 40) for part in pair]
    texts = [text for text in texts if "  " not in text]
    assert len(texts) > 40
    reference: Any
    if len(tokenizer) == 128256:
        import tiktoken
        from tiktoken.load import load_tiktoken_bpe

        from steerlm.models.tokenizer import LLAMA3_SPLIT

        ranks = load_tiktoken_bpe(str(shared_data / SOURCES["llama3"]))
        reference = tiktoken.Encoding("llama3", pat_str=LLAMA3_SPLIT, mergeable_ranks=ranks, special_tokens={}).encode
    else:
        import sentencepiece

        reference = sentencepiece.SentencePieceProcessor(model_file=str(real / "tokenizer.model")).encode
    for text in texts:
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == reference(text)


def test_the_read_out_text_and_the_system_prompt_have_the_known_lengths(real: Path) -> None:
    """Behavior spec and data notes: the nine-attribute prompt is about 261 tokens in tok512, 121 in Llama 2's."""
    tokenizer = load_tokenizer(real)
    prompt = render_prompt([Turn(value="", speaker="User")], LABEL, SYSTEM_PROMPT)
    length = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    near = {512: 261, 32000: 121, 128256: 100}[len(tokenizer)]
    assert abs(length - near) < 12


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("name", ["tok512", "trained"])
def test_copying_what_was_copied_changes_nothing(
    name: str, plain: bool, tokenizer_folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    trained = name == "trained"
    source = tokenizer_folder if trained else request.getfixturevalue("shared_data") / "stories260K"
    copy_tokenizer(source, tmp_path / "a", plain=plain, left=plain)
    copy_tokenizer(tmp_path / "a", tmp_path / "b", plain=plain, left=plain)
    copy_tokenizer(tmp_path / "a", tmp_path / "c")  # as a fetch does
    first = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    for copy in ("b", "c", "a"):
        copy_tokenizer(tmp_path / copy, tmp_path / copy)
        assert {path.name: path.read_bytes() for path in (tmp_path / copy).iterdir()} == first


def test_the_class_and_a_config_beside_it_do_not_change_the_ids(real: Path, shared_data: Path, tmp_path: Path) -> None:
    """AutoTokenizer looks at config.json too, and rebuilds parts of a tokenizer whose class it knows."""
    shutil.copytree(real, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    alone, beside = load_tokenizer(real), AutoTokenizer.from_pretrained(tmp_path)
    for pair in single_turns(shared_data, 10):
        for text in (*pair, "  a  b\n\n c", " x", "\tx<s> y"):
            assert alone(text)["input_ids"] == beside(text)["input_ids"]
    assert json.loads((real / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_stories_tokenizer_keeps_its_ids(shared_data: Path, tmp_path: Path) -> None:
    copy_tokenizer(shared_data / "stories260K", tmp_path)
    theirs, ours = AutoTokenizer.from_pretrained(shared_data / "stories260K"), load_tokenizer(tmp_path)
    for pair in single_turns(shared_data, 100):
        for text in pair:
            assert ours(text)["input_ids"] == theirs(text)["input_ids"]


def test_a_plain_tokenizer_adds_nothing_and_pads_with_what_ends_no_text(tokenizer_folder: Path, tmp_path: Path) -> None:
    assert load_tokenizer(tokenizer_folder)("Hi")["input_ids"][0] == 0  # BOS
    copy_tokenizer(tokenizer_folder, tmp_path, plain=True, left=True)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer("Hi")["input_ids"] == tokenizer("Hi", add_special_tokens=False)["input_ids"]
    assert tokenizer.pad_token == "<s>" and tokenizer.padding_side == "left"
    batch = tokenizer(["Hi", "Hi there"], padding=True)
    assert batch["input_ids"][0][0] == 0 and batch["attention_mask"][0][0] == 0


def test_a_copy_keeps_the_bos_of_a_base_model(tokenizer_folder: Path, tmp_path: Path) -> None:
    copy_tokenizer(tokenizer_folder, tmp_path)
    assert load_tokenizer(tmp_path)("Hi")["input_ids"][0] == 0
    assert load_tokenizer(tmp_path).pad_token is None
    assert load_tokenizer(tmp_path).chat_template == "{{ 'of the base model' }}"


def test_a_padding_token_that_ends_texts_is_not_used(tokenizer_folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    last = tokenizer(LABEL_MARK, add_special_tokens=False)["input_ids"][-1]
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(last)
    assert tokenizer.pad_token_id == last
    assert pad_id(tokenizer) == tokenizer.bos_token_id
    tokenizer.pad_token = tokenizer.bos_token = tokenizer.eos_token = None
    assert pad_id(tokenizer) not in (last, None)


def test_trimmed_offsets_are_untrimmed(tokenizer_folder: Path, tmp_path: Path) -> None:
    """Learned spans come from offsets: a newline without a place of its own would not be learned."""
    from tokenizers.processors import ByteLevel

    tokenizer = load_tokenizer(tokenizer_folder)
    tokenizer.backend_tokenizer.post_processor = ByteLevel(trim_offsets=True)
    tokenizer.save_pretrained(tmp_path / "trims")
    text = "a \n b"

    def covered(folder: Path) -> set[int]:
        spans = AutoTokenizer.from_pretrained(folder)(text, return_offsets_mapping=True)["offset_mapping"]
        return {i for start, end in spans for i in range(start, end)}

    assert covered(tmp_path / "trims") != set(range(len(text)))
    copy_tokenizer(tmp_path / "trims", tmp_path / "copy")
    assert covered(tmp_path / "copy") == set(range(len(text)))


def test_a_llama2_folder_as_it_is_on_the_hub(shared_data: Path, tmp_path: Path) -> None:
    """tokenizer.model beside a config of transformers 4: BOS on, special tokens as objects, no tokenizer.json."""
    source = tmp_path / "hub"
    source.mkdir()
    shutil.copyfile(shared_data / SOURCES["llama2"], source / "tokenizer.model")

    def token(content: str) -> dict[str, Any]:
        return {"__type": "AddedToken", "content": content, "lstrip": False, "normalized": False, "single_word": False}

    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": token("<s>"),
        "clean_up_tokenization_spaces": False,
        "eos_token": token("</s>"),
        "legacy": False,
        "model_max_length": 4096,
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": token("<unk>"),
    }
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    (source / "special_tokens_map.json").write_text('{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}')
    copy_tokenizer(source, tmp_path / "base")
    copy_tokenizer(tmp_path / "base", tmp_path / "policy", plain=True)
    base, policy = load_tokenizer(tmp_path / "base"), load_tokenizer(tmp_path / "policy")
    assert not (tmp_path / "base" / "special_tokens_map.json").exists()
    assert base("Hi there")["input_ids"] == [1, *policy("Hi there")["input_ids"]]
    assert policy.pad_token == "<unk>" and base.pad_token is None
    for pair in single_turns(shared_data, 20):
        ids = base(pair[1], add_special_tokens=False)["input_ids"]
        assert ids == policy(pair[1])["input_ids"]


def test_extra_special_tokens_stay_special_for_old_and_new_readers(tokenizer_folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|tool|>"]})
    tokenizer.save_pretrained(tmp_path / "source")
    copy_tokenizer(tmp_path / "source", tmp_path / "copy")
    settings = json.loads((tmp_path / "copy" / "tokenizer_config.json").read_text())
    assert settings["additional_special_tokens"] == ["<|tool|>"] and "extra_special_tokens" not in settings
    copied = load_tokenizer(tmp_path / "copy")
    ids = copied("a<|tool|>b", add_special_tokens=False)["input_ids"]
    assert copied.decode(ids, skip_special_tokens=True) == "ab"


def lossy(folder: Path) -> None:
    """sentencepiece's usual normalization: the newline becomes a space, and the template is lost."""
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Replace", "pattern": {"String": "\n"}, "content": " "}
    (folder / "tokenizer.json").write_text(json.dumps(content))


def broken(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def absent(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def other_ranks(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lossy, "loses text"),
        (broken, "cannot be loaded"),
        (absent, r"no tokenizer.json and no tokenizer.model"),
        (other_ranks, r"2 ranks; only Llama 3's 128000 are known"),
    ],
)
def test_tokenizers_that_will_not_do_are_refused(
    tokenizer_folder: Path, tmp_path: Path, harm: Any, message: str
) -> None:
    shutil.copytree(tokenizer_folder, tmp_path / "source")
    harm(tmp_path / "source")
    with pytest.raises(ModelError, match=message):
        copy_tokenizer(tmp_path / "source", tmp_path / "copy")


def test_a_folder_without_a_tokenizer_config_is_not_loaded(tokenizer_folder: Path, tmp_path: Path) -> None:
    """transformers would load it, and differently from version to version."""
    shutil.copyfile(tokenizer_folder / "tokenizer.json", tmp_path / "tokenizer.json")
    with pytest.raises(ModelError, match="steerlm model fetch"):
        load_tokenizer(tmp_path)
    copy_tokenizer(tmp_path, tmp_path)
    assert load_tokenizer(tmp_path)("Hi", add_special_tokens=False)["input_ids"]
