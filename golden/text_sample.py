"""Five hundred short texts that tell tokenizers apart: scripts, marks, digits, spaces, code, the unassigned."""

from __future__ import annotations

import random
import unicodedata

LANGUAGES = (
    "The quick brown fox jumps over the lazy dog.",
    "Portez ce vieux whisky au juge blond qui fume, n'est-ce pas ? « Voilà ! »",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia y frío; ¿añoraba a su querido cachorro?",
    "À noite, vovô Kowalsky vê o ímã cair no pé do pinguim queixoso.", "Pchnąć w tę łódź jeża lub ośm skrzyń fig.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy.", "Árvíztűrő tükörfúrógép.",
    "Pijamalı hasta yağız şoföre çabucak güvendi. İstanbul ıssız.",
    "Kæmi ný öxi hér ykist þjófum nú bæði víl og ádrepa.", "Tiếng Việt có dấu: đường phố Hà Nội, nghiêng nghiêng.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Чуєш їх, доцю, га? Кумедна ж ти, прощайся без ґольфів!",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Ὦ ἄνδρες Ἀθηναῖοι", "הקפיצה שלי היתה נועזת: שָׁלוֹם עֲלֵיכֶם",
    "نص حكيم له سر قاطع وذو شأن عظيم ـــ مكتوب بِالتَّشْكِيلِ", "می‌خواهم فارسی را با نیم‌فاصله بنویسم؛ ۱۲۳۴۵۶۷۸۹۰",
    "ٹھنڈ میں، ایک قحط زدہ گاؤں سے گذرتے وقت",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश। क्षत्रिय ज्ञान", "আমি বাংলায় গান গাই। স্বাধীনতা",
    "நான் தமிழ் பேசுகிறேன். ௧௨௩", "నేను తెలుగు మాట్లాడతాను. జ్ఞానం", "ನನ್ನ ಭಾಷೆ ಕನ್ನಡ", "മലയാളം എഴുതുന്നു, ന്‍റെ",
    "ਪੰਜਾਬੀ ਬੋਲੀ", "ગુજરાતી ભાષા", "ଓଡ଼ିଆ ଭାଷା", "සිංහල භාෂාව ශ්‍රී ලංකා",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน ๑๒๓", "ພາສາລາວ ສະບາຍດີ", "မြန်မာဘာသာ စကား",
    "ភាសាខ្មែរ ជំរាបសួរ", "བོད་སྐད་ཡིན།", "天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。",
    "我能吞下玻璃而不伤身体。2024年10月31日（星期四）",
    "いろはにほへと ちりぬるを。カタカナと漢字、ﾊﾝｶｸ、がぎぐ（か\u3099）",
    "키스의 고유조건은 입술끼리 만나야 한다. \u1112\u1161\u11ab\u1100\u1173\u11af", "ქართული ენა", "Հայոց լեզու",
    "አማርኛ ቋንቋ። ፩፪፫", "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ", "ᐃᓄᒃᑎᑐᑦ", "ᠮᠣᠩᠭᠣᠯ ᠬᠡᠯᠡ", "ⵜⴰⵎⴰⵣⵉⵖⵜ", "𐌰𐍄𐍄𐌰 𐌿𐌽𐍃𐌰𐍂", "𒀀𒁀𒂀", "𓀀𓁐𓃭",
    "ﷺ ﷽ ﬁ ﬂ ﬀ Ǆ ǅ ǆ ß ẞ ſ K Å Ω", "ＦＵＬＬｗｉｄｔｈ　１２３！", "Ⅷ ⅷ ① ⑳ ½ ⅓ ² ³ ₅ ㊿ ㋿ ㍻",
)  # fmt: skip

EMOJI = (
    "🙂", "👍🏽", "👩‍👩‍👧‍👦", "👨🏿‍🚀", "🏳️‍🌈", "🏴‍☠️", "🇩🇪🇫🇷🇯🇵", "❤️‍🔥", "☎️ ☎︎", "1️⃣2️⃣#️⃣", "🫠🫨🪿",
    "🎉🎉🎉🎉🎉", "a🙂b", "🙂 🙂  🙂", "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "🧑‍💻: ok ✅ no ❌", "\u200d\u200d", "\ufe0f", "🏽",
)  # fmt: skip

MARKS = (
    "e\u0301 é", "A\u030a Å", "n\u0303o\u0308", "\u0301", " \u0301", "a\u0301\u0302\u0303\u0304\u0305b",
    "q\u0307\u0323 q\u0323\u0307", "\u1100\u1161", "ḍ̇ d\u0323\u0307",
    "Z\u0351\u036b\u0343\u036a\u0302a\u0327\u0321l\u0328\u0334g\u0332\u0353o", "क\u093c ख़", "\u0e33\u0e4d\u0e32",
    "x\u20dd", "\ufb2a\ufb2b", "İi̇ıI", "ΑΣ Σας ς", "ŉ ǰ ΐ",
)  # fmt: skip

CONTROLS = (
    "", " ", "  ", "   ", "\t", "\t\t", "\n", "\n\n", "\n\n\n\n", "\r", "\r\n", "\r\n\r\n", " \n", "\n ", "\t\n\t",
    " \t ", "\x00", "a\x00b", "\x01\x02\x1f\x7f", "\x80\x85\x9f", "\x0b\x0c\x1c\x1d\x1e", "\u00a0x\u00a0", "\u00ad",
    "a\u200bb\u200cc\u200dd", "\u2028\u2029", "\u2003x\u3000y\u205fz\u1680", "\u200e\u200f\u202a\u202e\u2066",
    "\ufeffx", "\ufffd", "\ufffe\uffff", "\U0001fffe", "\U0010ffff", "\ue000\uf8ff\U000f0000", "\u0378\u0379",
    "\U000e0080", "\U0001f8ff", "\u2fe0", "\ufdd0", "\U0003fffd", "\U00030000 \U00031350",
    "\u1c89\u1c8a \ua7cb\ua7cc \U00010d40\U00010d65", "\u0897 \u1b4e", "\U00016100 \U0001cc00 \U0001cd00",
    "\U0001fae9\U0001fac6",
)  # fmt: skip

RUNS = (2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 40, 64, 100)

SPACES = (
    *(text for n in RUNS for text in (f"a{' ' * n}b", "\n" * n, f"x{chr(9) * n}y")),
    "  leading", "trailing  ", " both ", "a \n b", "a\n\n  b", "a  \n\n  \n c", "x\n \n y", "\n\n\n   1", "  \t 7",
    "a \r\n b\r\n\r\n c",
)  # fmt: skip

NUMBERS = (
    *(("1234567890" * 4)[:n] for n in (1, 2, 3, 4, 5, 6, 7, 9, 10, 13, 27, 40)), "0", "00", "000", "0000",
    "3.14159", "1,234,567.89", "-42", "+1", "1e-10", "6.02e+23", "0xDEADBEEF", "0b1011", "$1,000", "€20", "50%",
    "1/2", "a1b2c3", "x12345y", "v1.2.3-rc4", "2024-10-31T23:59:59Z", "192.168.0.1", "+49 (0)30 1234567", "١٢٣٤",
    "१२३", "１２３４", "²³¹", "1 2 3", "12 345 6789", "1st 2nd 3rd", "No.5", "100,000,000",
    "1234567890123456789012345678901234567890 ", " 7", "  77", "\n777", "９9९",
)  # fmt: skip

CONTRACTIONS = (
    "I'm you're he'll we've they'd it's don't", "I'M YOU'RE HE'LL WE'VE THEY'D IT'S DON'T", "I'm'm'm 's 't 're",
    "'S 'T 'Re 'vE 'LL", "o'clock rock'n'roll", "’s ’t ’re don’t", "'", "''", "'''", "''s", "a's's", "'tis 'twas",
    "x'd'd", "'ſ", "'K", "l'été d'Artagnan", "'lla 'red 'sam 'me",
    "HELLO World hELLO iPhone XMLHttpRequest camelCase snake_case SCREAMING_CASE kebab-case", "ÀÉÎ àéî ÀÉî",
    "ǅungla", "ʰʲʷ ªº", "Ωmega Ñandú",
)  # fmt: skip

CODE = (
    "def f(x: int) -> int:\n    return x ** 2  # square\n",
    "for (int i = 0; i < n; ++i) {\n\ta[i] += b[i] * c;\n}\n",
    "#include <stdio.h>\r\nint main(void) { return 0; }\r\n", "<html><body class=\"x\">&nbsp;<br/></body></html>",
    "SELECT * FROM t WHERE a != 'b' AND c >= 10;", "{\"key\": [1, 2.5, null, true], \"s\": \"\\u00e9\\n\"}",
    "if(a&&b||!c){x<<=2;y>>>=1;}", "https://example.com/path?q=1&r=%20#frag", "user.name+tag@example.co.uk",
    "```python\nprint(f\"{x!r:>10}\")\n```", "\\frac{a}{b} \\sum_{i=0}^{n} x_i^2", "C:\\Users\\me\\file.txt",
    "$PATH ~/.bashrc && ./run.sh | grep -v '^#'", "a->b::c<d>()", "!!!???...,,,;;;:::", "---===***___###",
    "@@@ %%% ^^^ ~~~ ``` |||", "()[]{}<>", "/* */ // -- ;;", "?!", "...", ".\n", "!\n\n", ")\r\n", "/\n/\r\n//\n",
    "=\n==\n", "\"quoted\" 'single' “curly” ‘curly’ „low‟ «guillemets» 「kagi」",
    "→ ← ↑ ⇒ ∀ ∃ ∈ ≤ ≠ ∞ ± × ÷ √ ∑ ∏ ∫", "♠♥♦♣ ☃ ★ ☆ ♪ ©®™ §¶†‡ •", "└── ├── │ ▁▂▃▄▅▆▇█ ░▒▓",
)  # fmt: skip

SPECIAL = (
    "<|endoftext|>", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "a<|im_end|>b", " <|im_end|> ",
    "<|im_start|", "<|im_start|>>", "<<|im_start|>", "<bos>", "<eos>x", "<pad>", "<unk>", "<mask>",
    "<start_of_turn>user\nhi<end_of_turn>\n", " <end_of_turn> ", "<unused5>", "<table><tr><td>1</td></tr></table>",
    "<h1>x</h1>", "[CLS] a [SEP] b [MASK] c [PAD] [UNK]", "[unused1]", "<s>x</s>", "<0x0A>", "<0xE2><0x82><0xAC>",
    "<repo_name>x<filename>y", "▁", "▁▁", "a▁b", " ▁ x", "▁ a", "Ġ", "ĠĠ", "Ċ", "##ing", "ing ##ing",
    "<|im_end|><|im_end|>", "<|IM_END|>", "<|im_end|", "im_end", "<start_of_image>", "<end_of_turn", "</s>",
    "<b>bold</b> <i>x</i>",
)  # fmt: skip

LONG = (
    "word " * 60, "a" * 200, "ab" * 100, "é" * 80, "漢字" * 60, "🙂" * 30, "supercalifragilisticexpialidocious" * 4,
    "aaaaaaaaaab" * 12, "." * 130, "=" * 120, "x" * 101, "ha" * 64 + "!",
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut "
    "labore et dolore magna aliqua.",
)  # fmt: skip


def _scripts(rng: random.Random) -> list[str]:
    """A few words from each block of 128 code points that has letters, marks or numbers in it."""
    texts = []
    for block in range(0, 0x20000, 128):
        points = [p for p in range(block, block + 128) if unicodedata.category(chr(p))[0] in "LMN"]
        if len(points) >= 8 and rng.random() < 0.4:
            words = ["".join(chr(rng.choice(points)) for _ in range(rng.randint(1, 6))) for _ in range(3)]
            texts.append(" ".join(words))
    return texts[:90]


def _mixtures(rng: random.Random) -> list[str]:
    """Random code points, assigned or not, surrogates excepted; and random splices of the texts above."""
    fixed = [*LANGUAGES, *EMOJI, *MARKS, *CONTROLS, *SPACES, *NUMBERS, *CONTRACTIONS, *CODE, *SPECIAL]
    wild = []
    for top in (0x80, 0x250, 0x3000, 0x10000, 0x20000, 0x110000):
        for _ in range(6):
            points = [rng.randrange(top) for _ in range(rng.randint(3, 24))]
            wild.append("".join(chr(p) for p in points if not 0xD800 <= p < 0xE000))
    spliced = []
    for _ in range(60):
        cuts = [(text, rng.randint(0, len(text))) for text in rng.choices(fixed, k=4)]
        spliced.append("".join(text[max(0, at - 9) : at + 9] for text, at in cuts))
    return wild + spliced


def sample() -> list[str]:
    """The texts, the same in every run under one version of Python's Unicode tables; the golden keeps them."""
    rng = random.Random(20)
    fixed = [LANGUAGES, EMOJI, MARKS, CONTROLS, SPACES, NUMBERS, CONTRACTIONS, CODE, SPECIAL, LONG]
    texts = [text for group in fixed for text in group] + _scripts(rng) + _mixtures(rng)
    return list(dict.fromkeys(texts))
