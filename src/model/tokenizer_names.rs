//! The rules that `tokenizer.ggml.pre` names in GGUF files: how a text is cut into words before byte-level BPE. The names
//! are llama.cpp's (`llama-vocab.cpp`); the rules are those of the models' own `tokenizer.json`, which llama.cpp
//! rewrites for its regular expressions.

use serde_json::{Value, json};

use super::tokenizer_parts::{QWEN2, byte_level, isolated, sequence, split};

/// What a name stands for.
pub struct Rule {
    pub pre_tokenizer: Value,
    pub normalizer: Value,
    /// A word that is in the vocabulary is taken whole, without merges.
    pub ignores_merges: bool,
    /// A beginning token is put first where the file does not say it.
    pub adds_bos: bool,
    /// Pieces are characters with `▁` for a space, not bytes.
    pub spaces: bool,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const JAIS2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const YOUTU: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const KIMI_K2: &str = r"\p{Han}+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILING: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const SEED_CODER: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const UFAKZEKA: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const EXAONE_MOE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+";
const MINICPM5: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";
const DEEPSEEK3: &str = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const SPARK: &str = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+|[\\r\\n]|\\s+(?!\\S)|\\s+";
const JAPANESE_AND_CHINESE: &str = "[一-龥぀-ゟ゠-ヿ]+";
const CHINESE_AND_MORE: &str = "[一-龥ࠀ-一가-퟿]+";
/// The digits of a number in threes, counted from its end.
const THOUSANDS: &str = r"\d{1,3}(?=(?:\d{3})*\b)";
const DEEPSEEK_LLM: &str = "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const AFMOE_ASIAN: &str = "[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+";
const YOUTU_ASIAN: &str = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+";

/// Digits one by one, then GPT-2's rule.
fn digits() -> Value {
    sequence([json!({"type": "Digits", "individual_digits": true}), byte_level(false, true)])
}

fn nfc() -> Value {
    json!({"type": "NFC"})
}

/// Returns the rule of a name; `architecture` is the file's `general.architecture`.
pub fn rule(name: &str, architecture: &str) -> Option<Rule> {
    let pre_tokenizer = pre_tokenizer(name)?;
    let spaces = ["gemma4", "granite-embed-multi-311m", "sarvam-moe"].contains(&name);
    // No key says which models compose characters first.
    let composes = matches!(
        name,
        "qwen2"
            | "qwen35"
            | "deepseek-r1-qwen"
            | "megrez"
            | "kormo"
            | "f2llmv2"
            | "command-r"
            | "tiny_aya"
            | "cohere2moe"
            | "olmo"
            | "mpt"
    ) || architecture == "gptneox";
    let normalizer = if spaces {
        json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
    } else if composes {
        nfc()
    } else {
        Value::Null
    };
    let llama3 = is_llama3(name);
    let ignores_merges =
        llama3 || matches!(name, "minicpm5" | "youtu" | "glm4" | "glm5" | "tekken" | "granite-embed-multi-97m");
    Some(Rule {
        pre_tokenizer,
        normalizer,
        ignores_merges,
        adds_bos: llama3 || matches!(name, "tekken" | "chameleon"),
        spaces,
    })
}

fn is_llama3(name: &str) -> bool {
    matches!(
        name,
        "llama3"
            | "llama-v3"
            | "llama-bpe"
            | "falcon3"
            | "falcon-h1"
            | "pixtral"
            | "midm-2.0"
            | "lfm2"
            | "jina-v5-nano"
    )
}

fn pre_tokenizer(name: &str) -> Option<Value> {
    Some(match name {
        "default" => split(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
        _ if is_llama3(name) => split(&[LLAMA3]),
        "dbrx" | "smaug-bpe" | "chatglm-bpe" | "glm4" | "glm5" => split(&[LLAMA3]),
        "jais-2" => split(&[JAIS2]),
        "minicpm5" => split(&[r"\p{N}{1,3}", MINICPM5]),
        "deepseek-llm" => sequence(
            ["[\r\n]", DEEPSEEK_LLM, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", CHINESE_AND_MORE]
                .into_iter()
                .map(isolated)
                .chain([json!({"type": "Digits", "individual_digits": true}), byte_level(false, false)]),
        ),
        "deepseek-coder" => sequence(
            ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CHINESE_AND_MORE]
                .into_iter()
                .map(isolated)
                .chain([json!({"type": "Digits", "individual_digits": true}), byte_level(false, false)]),
        ),
        "deepseek-v3" | "hunyuan-dense" | "joyai-llm" | "hy_v4" => {
            split(&[r"\p{N}{1,3}", JAPANESE_AND_CHINESE, DEEPSEEK3])
        }
        "spark2_5" => split(&[r"\p{N}{1,3}", JAPANESE_AND_CHINESE, SPARK, r"\p{N}"]),
        "youtu" => split(&[YOUTU_ASIAN, YOUTU]),
        "falcon" => sequence([
            json!({"type": "Punctuation", "behavior": "Contiguous"}),
            byte_level(false, true),
            json!({"type": "Digits", "individual_digits": false}),
            isolated("[0-9][0-9][0-9]"),
        ]),
        "starcoder" | "refact" | "command-r" | "smollm" | "codeshell" | "exaone" | "minerva-7b" | "mellum2" => digits(),
        "gpt-2" | "gpt2" | "phi-2" | "jina-es" | "jina-de" | "gigachat" | "jina-v2-es" | "jina-v2-de" | "a.x-4.0"
        | "mellum" | "modern-bert" | "jina-v1-en" | "jina-v2-code" | "roberta-bpe" | "mpt" | "olmo" | "jais"
        | "exaone4" | "trillion" | "granite-docling" => byte_level(false, true),
        "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "stablelm2" | "megrez" | "hunyuan" | "solar-open"
        | "grok-2" => split(&[QWEN2]),
        "qwen35" => split(&[QWEN35]),
        "bloom" | "poro-chat" | "gpt3-finnish" => split(&[BLOOM]),
        "viking" => split(&[BLOOM, r"\p{N}"]),
        "tekken" => split(&[TEKKEN]),
        "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" | "granite-embed-multi-97m" => split(&[GPT4O]),
        "tiny_aya" | "cohere2moe" => split(&[THOUSANDS, GPT4O]),
        "superbpe" => split(&[r"\p{N}+", r"(?=(\d{3})+(?!\d))"]),
        "bailingmoe" | "bailingmoe2" | "llada-moe" => split(&[BAILING]),
        "seed-coder" => split(&[SEED_CODER]),
        "kimi-k2" => split(&[KIMI_K2]),
        "ufakzeka" => split(&[UFAKZEKA]),
        "afmoe" => split(&[THOUSANDS, AFMOE_ASIAN, DEEPSEEK3]),
        "laguna" => split(&[r"[^\n]+|[\n]+", QWEN2]),
        "exaone-moe" => split(&[EXAONE_MOE]),
        "chameleon" => sequence([
            isolated("<sentinel:[0-9]+>"),
            isolated("(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z"),
            isolated(r"([\t\n]|    |  )"),
            json!({"type": "Digits", "individual_digits": true}),
            json!({"type": "Punctuation", "behavior": "Isolated"}),
            byte_level(false, true),
        ]),
        "gemma4" | "granite-embed-multi-311m" | "sarvam-moe" => isolated(r"[^\n]+|[\n]+"),
        _ => return None,
    })
}
