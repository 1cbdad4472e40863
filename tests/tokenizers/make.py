"""Writes small tokenizer folders and expected.json: what transformers 5's AutoTokenizer makes of texts with each.

Run in the repository's root, with transformers 5 and tokenizers installed.
"""
import json
import os
import shutil

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

HERE = "tests/tokenizers"
TEXT = (
    "The capital of France is Paris, and the capital of Italy is Rome. When Mary and John went to the store, John gave a "
    "drink to Mary. In 1999 it was 12345, or 3.14; before that it was 1234. She sells the leading spaces of lines. "
    "Afterwards they're ending in France, there and then, in the line before the line. "
) * 4 + " 12345 1999 don't I'll THEY'RE café naïve 😀 \n\n  x\t"
TEXTS = [
    "", " ", "The capital of France", " leading space", "two  spaces   three", "In 1999 it was 12345, or 3.14",
    "line one\nline two\n\n\nend\n", "don't I'LL café naïve cafe\u0301 😀", "before<|im_start|> after</s>x <s>",
    "a <|extra|> b<|endoftext|>", "you're 'S \u00bd\u00b2 x",
]


def trained(special):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def folder(name):
    path = f"{HERE}/{name}"
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    return path


def write(path, name, value):
    json.dump(value, open(f"{path}/{name}", "w", encoding="utf-8"), ensure_ascii=False)


def files(path, special):
    model = json.loads(trained(special).to_str())["model"]
    write(path, "vocab.json", model["vocab"])
    with open(f"{path}/merges.txt", "w", encoding="utf-8") as out:
        out.write("#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in model["merges"]))


def added(content, **options):
    return {"content": content, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True, **options}


expected = {}


def finish(path, model_type, **config):
    config = {"model_type": model_type, **config}
    write(path, "config.json", config)
    tokenizer = AutoTokenizer.from_pretrained(path)
    expected[os.path.basename(path)] = {
        "class": type(tokenizer).__name__, "vocabulary": len(tokenizer), "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id,
        "texts": [{"text": text, "ids": tokenizer(text)["input_ids"]} for text in TEXTS],
    }


path = folder("gpt2-files")
files(path, ["<|endoftext|>"])
write(path, "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True})
finish(path, "gpt2")

path = folder("opt-files")
files(path, ["<s>", "<pad>", "</s>", "<unk>"])
write(path, "tokenizer_config.json", {
    "tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "bos_token": added("</s>", normalized=True, special=False, __type="AddedToken"),
    "eos_token": added("</s>", normalized=True, special=False, __type="AddedToken"), "unk_token": added("</s>", normalized=True, special=False, __type="AddedToken"), "pad_token": "<pad>",
})
finish(path, "opt")

path = folder("qwen2-files")
files(path, [])
write(path, "tokenizer_config.json", {
    "tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None,
    "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
    "added_tokens_decoder": {"340": added("<|endoftext|>"), "341": added("<|im_start|>"), "342": added("<|im_end|>"), "343": added("<|extra|>", lstrip=True, special=False)},
})
finish(path, "qwen2")

path = folder("eos-files")
files(path, ["<|endoftext|>"])
write(path, "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "add_eos_token": True})
finish(path, "gpt2")

path = folder("json-bos")
tokenizer = trained(["<s>", "</s>", "<|im_start|>"])
tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
tokenizer.save(f"{path}/tokenizer.json")
write(path, "tokenizer_config.json", {
    "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False,
    "added_tokens_decoder": {"340": added("<|extra|>", rstrip=True, special=False)},
})
finish(path, "llama")

path = folder("json-around")
tokenizer = trained(["<s>", "</s>", "<|im_start|>"])
tokenizer.post_processor = processors.TemplateProcessing(
    single="<|im_start|> <s> $A </s>", pair="$A $B", special_tokens=[("<s>", 0), ("</s>", 1), ("<|im_start|>", 2)]
)
tokenizer.save(f"{path}/tokenizer.json")
write(path, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"})
finish(path, "llama")

path = folder("json-silent")
trained(["<s>", "</s>"]).save(f"{path}/tokenizer.json")
write(path, "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "pad_token": "<|extra|>"})
finish(path, "llama")

json.dump(expected, open(f"{HERE}/expected.json", "w", encoding="utf-8"), ensure_ascii=False, indent=1)
print({k: (v["class"], v["vocabulary"], v["texts"][2]["ids"][:3]) for k, v in expected.items()})
