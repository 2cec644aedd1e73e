//! What is no frame, by name, and what is wrong with it.

use std::iter;

use wirestate_core::message::{DecodeError, HeaderError, Kind, Limits, MAX_DEPTH};

use super::{GOLDEN_HEADER, golden};

/// A header that must be refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadHeader {
    /// What is wrong with it; no other one has this name.
    pub name: String,
    /// The header, without the two bytes of its length.
    pub json: Vec<u8>,
    /// What it must be refused with. Of a [`HeaderError::NotJson`] this is how the text begins: it
    /// goes on with the place.
    pub error: HeaderError,
}

/// Bytes that must be refused under [`Limits::default`], at the latest at the end of the input
/// behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFrame {
    /// What is wrong with them; no other ones have this name.
    pub name: String,
    /// The bytes. Whole frames may come before the one that is wrong.
    pub bytes: Vec<u8>,
    /// How many whole frames come before it.
    pub good: usize,
    /// What they must be refused with, as in [`BadHeader::error`].
    pub error: DecodeError,
}

impl BadHeader {
    /// Whether `error` is what it must be refused with.
    pub fn gives(&self, error: &HeaderError) -> bool {
        agree(&self.error, error)
    }
}

impl BadFrame {
    /// Whether `error` is what it must be refused with.
    pub fn gives(&self, error: &DecodeError) -> bool {
        match (&self.error, error) {
            (DecodeError::Header(expected), DecodeError::Header(found)) => agree(expected, found),
            (expected, found) => expected == found,
        }
    }
}

fn agree(expected: &HeaderError, found: &HeaderError) -> bool {
    match (expected, found) {
        (HeaderError::NotJson(expected), HeaderError::NotJson(found)) => found
            .strip_prefix(&**expected)
            .is_some_and(|place| place.is_empty() || place.starts_with(" at line ")),
        (expected, found) => expected == found,
    }
}

/// Some hundreds of headers that must be refused, from the traps of JSON to the habits of sloppy
/// peers. All are short enough for [`Limits::default`].
pub fn bad_headers() -> Vec<BadHeader> {
    let mut bad = Families(Vec::new());
    bad.missing_keys();
    bad.wrong_types();
    bad.lengths_that_are_none();
    bad.numbers_that_are_no_lengths();
    bad.texts_that_are_no_numbers();
    bad.byte_orders();
    bad.other_values_than_objects();
    bad.duplicate_keys();
    bad.byte_order_marks();
    bad.invalid_utf_8();
    bad.control_characters();
    bad.escapes();
    bad.nesting();
    bad.syntax();
    bad.0
}

/// All of [`bad_headers`] in frames, and what is wrong with frames beside their headers: lengths,
/// limits, ends, other protocols.
pub fn bad_frames() -> Vec<BadFrame> {
    let headers = bad_headers().into_iter().map(|BadHeader { name, json, error }| BadFrame {
        name,
        bytes: with_length(&json),
        good: 0,
        error: error.into(),
    });
    let mut bad: Vec<BadFrame> = headers.filter(|bad| bad.bytes.len() > 2).collect();
    let frames = [header_lengths(), content_lengths(), ends(), other_protocols(), later_frames()];
    bad.extend(frames.into_iter().flatten());
    bad
}

/// `json` behind the two bytes of its length.
fn with_length(json: &[u8]) -> Vec<u8> {
    let length = u16::try_from(json.len()).expect("a header of the corpus is short");
    [&length.to_be_bytes(), json].concat()
}

const KEYS: [(&str, &str); 4] = [
    ("byteorder", r#""little""#),
    ("content-type", r#""text/json""#),
    ("content-encoding", r#""utf-8""#),
    ("content-length", "41"),
];

fn object(pairs: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let pairs: Vec<String> =
        pairs.into_iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
    format!("{{{}}}", pairs.join(", "))
}

/// The golden header, with another value under `key`.
fn with(key: &str, value: &str) -> String {
    object(KEYS.map(|(k, v)| (k, if k == key { value } else { v }.to_owned())))
}

/// The golden header, with `more` behind its last value.
fn and(more: &str) -> String {
    let all = object(KEYS.map(|(key, value)| (key, value.to_owned())));
    format!("{}{more}}}", &all[..all.len() - 1])
}

/// As many `open`, what `is` in them, and as many `close`.
fn nested(levels: usize, open: &str, is: &str, close: &str) -> String {
    [&*open.repeat(levels), is, &*close.repeat(levels)].concat()
}

fn not_json(text: &str) -> HeaderError {
    HeaderError::NotJson(text.into())
}

fn twice(key: &str) -> HeaderError {
    HeaderError::DuplicateKey { key: key.into() }
}

struct Families(Vec<BadHeader>);

impl Families {
    fn add(&mut self, name: impl Into<String>, json: impl Into<Vec<u8>>, error: HeaderError) {
        self.0.push(BadHeader { name: name.into(), json: json.into(), error });
    }

    /// Every way to lack some of the four; the first that lacks is named.
    fn missing_keys(&mut self) {
        for lacking in 1..16_u32 {
            let (there, absent): (Vec<_>, Vec<_>) =
                (0..4).zip(KEYS).partition(|(i, _)| lacking & (1 << i) == 0);
            let names: Vec<&str> = absent.iter().map(|(_, (key, _))| *key).collect();
            let json = object(there.into_iter().map(|(_, (key, value))| (key, value.to_owned())));
            let error = HeaderError::Missing { key: names[0] };
            self.add(format!("missing: {}", names.join(", ")), json, error);
        }
        for (key, _) in KEYS {
            for (how, other) in
                [("in capitals", key.to_uppercase()), ("with a space", format!("{key} "))]
            {
                let json = and("").replace(&format!("\"{key}\""), &format!("\"{other}\""));
                self.add(format!("missing: {key}, {how}"), json, HeaderError::Missing { key });
            }
        }
        let underscores = and("").replace('-', "_").replace("utf_8", "utf-8");
        let error = HeaderError::Missing { key: "content-type" };
        self.add("missing: underscores in the names", underscores, error);
    }

    /// Every kind of JSON where another one is expected.
    fn wrong_types(&mut self) {
        let kinds = [
            ("null", Kind::Null),
            ("true", Kind::Boolean),
            ("false", Kind::Boolean),
            ("0", Kind::Number),
            ("41", Kind::Number),
            ("18446744073709551615", Kind::Number),
            ("-1", Kind::Number),
            ("-9223372036854775808", Kind::Number),
            ("-0", Kind::Number),
            ("1.5", Kind::Number),
            ("3.0", Kind::Number),
            ("3e0", Kind::Number),
            ("1E2", Kind::Number),
            ("4.1e1", Kind::Number),
            ("18446744073709551616", Kind::Number),
            ("-9223372036854775809", Kind::Number),
            (r#""""#, Kind::String),
            (r#""3""#, Kind::String),
            (r#""little""#, Kind::String),
            ("[]", Kind::Array),
            ("[41]", Kind::Array),
            (r#"["little"]"#, Kind::Array),
            ("{}", Kind::Object),
            (r#"{"a": 41}"#, Kind::Object),
        ];
        for (key, _) in KEYS {
            let (wanted, expected) = match key {
                "content-length" => (Kind::Number, "a whole number of bytes"),
                _string => (Kind::String, "a string"),
            };
            for (value, found) in kinds.into_iter().filter(|(_, found)| *found != wanted) {
                let error = HeaderError::WrongType { key, expected, found };
                self.add(format!("wrong type: {key}: {value}"), with(key, value), error);
            }
        }
    }

    /// Numbers that are no length, and how they are shown.
    fn lengths_that_are_none(&mut self) {
        for (value, shown) in [
            ("-1", "-1"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("-0", "-0.0"),
            ("1.5", "1.5"),
            ("3.0", "3.0"),
            ("3e0", "3.0"),
            ("1E2", "100.0"),
            ("4.1e1", "41.0"),
            ("18446744073709551616", "1.8446744073709552e19"),
            ("-9223372036854775809", "-9.223372036854776e18"),
        ] {
            let error = HeaderError::ContentLength { found: shown.into() };
            self.add(format!("no length: {value}"), with("content-length", value), error);
        }
    }

    /// Texts that some parsers take for a number.
    fn numbers_that_are_no_lengths(&mut self) {
        for (value, error) in [
            ("01", "invalid number"),
            ("-01", "invalid number"),
            ("00", "invalid number"),
            ("+1", "expected value"),
            ("0x10", "expected `,` or `}`"),
            ("0b1", "expected `,` or `}`"),
            ("0o7", "expected `,` or `}`"),
            ("1_000", "expected `,` or `}`"),
            ("1 000", "expected `,` or `}`"),
            ("41n", "expected `,` or `}`"),
            ("41L", "expected `,` or `}`"),
            (".5", "expected value"),
            ("1.", "invalid number"),
            ("1e", "invalid number"),
            ("1e+", "invalid number"),
            ("1.e1", "invalid number"),
            ("-", "invalid number"),
            ("--1", "invalid number"),
            ("1e400", "number out of range"),
            ("-1e400", "number out of range"),
            ("NaN", "expected value"),
            ("nan", "expected ident"),
            ("Infinity", "expected value"),
            ("-Infinity", "invalid number"),
            ("inf", "expected value"),
            ("٤١", "expected value"),
            ("４１", "expected value"),
            ("(41)", "expected value"),
            ("=41", "expected value"),
        ] {
            self.add(format!("no number: {value}"), with("content-length", value), not_json(error));
        }
    }

    /// Texts that some programs write for the other values.
    fn texts_that_are_no_numbers(&mut self) {
        for (value, error) in [
            ("None", "expected value"),
            ("True", "expected value"),
            ("False", "expected value"),
            ("nul", "expected ident"),
            ("nil", "expected ident"),
            ("tru", "expected ident"),
            ("fals", "expected ident"),
            ("undefined", "expected value"),
            ("little", "expected value"),
            ("'little'", "expected value"),
            ("`little`", "expected value"),
            ("b\"little\"", "expected value"),
            ("“little”", "expected value"),
            ("", "expected value"),
        ] {
            self.add(format!("no value: {value}"), with("byteorder", value), not_json(error));
        }
    }

    fn byte_orders(&mut self) {
        for found in [
            "",
            "Little",
            "LITTLE",
            "Big",
            "middle",
            "native",
            "network",
            "<",
            "le",
            " little",
            "little ",
            "little\u{200b}",
            "lіttle",
            "little\0",
            "big big",
            "🐶",
        ] {
            let json = with("byteorder", &format!("\"{}\"", found.replace('\0', "\\u0000")));
            let name = format!("byte order: {found:?}");
            self.add(name, json, HeaderError::ByteOrder { found: found.into() });
        }
        let json = with("byteorder", &format!("\"{}\"", "x".repeat(2000)));
        let found = format!("{}…", "x".repeat(32)).into();
        self.add("byte order: endless", json, HeaderError::ByteOrder { found });
    }

    fn other_values_than_objects(&mut self) {
        for (json, found) in [
            ("null", Kind::Null),
            ("true", Kind::Boolean),
            ("false", Kind::Boolean),
            ("0", Kind::Number),
            ("-1", Kind::Number),
            ("1.5", Kind::Number),
            (r#""""#, Kind::String),
            (r#""little""#, Kind::String),
            ("[]", Kind::Array),
            ("[{}]", Kind::Array),
            (r#"["little","text/json","utf-8",41]"#, Kind::Array),
            (r#"[["byteorder","little"],["content-length",41]]"#, Kind::Array),
            ("[", Kind::Array),
        ] {
            self.add(format!("no object: {json}"), json, HeaderError::NotAnObject { found });
        }
        let array = format!("[{GOLDEN_HEADER}]");
        self.add(
            "no object: one in an array",
            array,
            HeaderError::NotAnObject { found: Kind::Array },
        );
        let text = format!("\"{}\"", GOLDEN_HEADER.replace('"', "\\\""));
        self.add(
            "no object: one in a string",
            text,
            HeaderError::NotAnObject { found: Kind::String },
        );
        let levels = nested(2000, "[", "", "]");
        self.add(
            "no object: arrays without end",
            levels,
            HeaderError::NotAnObject { found: Kind::Array },
        );
        for (name, json, error) in [
            ("a space", " ", "EOF while parsing a value"),
            ("a line", "\r\n", "EOF while parsing a value"),
            ("NUL", "\0", "expected value"),
            ("a text", "hello", "expected value"),
            ("a string's beginning", "\"little", "EOF while parsing a string"),
            ("a form", "byteorder=little&content-length=41", "expected value"),
            ("XML", "<header byteorder='little'/>", "expected value"),
            ("YAML", "byteorder: little", "expected value"),
            ("a no-break space before it", "\u{a0}{}", "expected value"),
        ] {
            self.add(format!("no value at all: {name}"), json, not_json(error));
        }
    }

    fn duplicate_keys(&mut self) {
        for (key, value) in KEYS {
            let escaped = format!("\\u{:04x}{}", u32::from(key.as_bytes()[0]), &key[1..]);
            for (how, again) in [
                ("the same", format!(r#", "{key}": {value}"#)),
                ("another value", format!(r#", "{key}": 0"#)),
                ("null", format!(r#", "{key}": null"#)),
                ("written with an escape", format!(r#", "{escaped}": {value}"#)),
            ] {
                self.add(format!("duplicate: {key}, {how}"), and(&again), twice(key));
            }
            let first = and("").replacen('{', &format!(r#"{{"{key}": {value}, "#), 1);
            self.add(format!("duplicate: {key}, in front"), first, twice(key));
        }
        for (name, more, key) in [
            ("a key that nobody reads", r#", "x": 1, "x": 1"#, "x"),
            ("with others between", r#", "x": 1, "y": 2, "z": 3, "x": 1"#, "x"),
            ("one of them escaped", r#", "x": 1, "\u0078": 1"#, "x"),
            ("both escaped, differently", r#", "\u006a": 1, "\u006A": 1"#, "j"),
            ("an escaped slash", r#", "/": 1, "\/": 1"#, "/"),
            ("a pair of surrogates", r#", "🐶": 1, "\ud83d\udc36": 1"#, "🐶"),
            ("beyond ASCII", r#", "é": 1, "\u00e9": 1"#, "é"),
            ("the empty key", r#", "": 1, "": 2"#, ""),
            ("in an object", r#", "x": {"a": 1, "a": 2}"#, "a"),
            ("in an object in an array", r#", "x": [0, {"a": 1, "a": 2}]"#, "a"),
            ("in an array in an object", r#", "x": {"y": [{"a": 1, "b": 2, "a": 3}]}"#, "a"),
            ("a required one, deeper", r#", "x": {"byteorder": 1, "byteorder": 1}"#, "byteorder"),
        ] {
            self.add(format!("duplicate: {name}"), and(more), twice(key));
        }
        let long = "k".repeat(1000);
        let json = and(&format!(r#", "{long}": 1, "{long}": 2"#));
        self.add("duplicate: an endless key", json, twice(&format!("{}…", "k".repeat(32))));
    }

    fn byte_order_marks(&mut self) {
        const MARK: &str = "\u{feff}";
        let golden = GOLDEN_HEADER;
        let mark = HeaderError::ByteOrderMark;
        self.add("byte-order mark: in front", format!("{MARK}{golden}"), mark.clone());
        self.add("byte-order mark: twice", format!("{MARK}{MARK}{golden}"), mark.clone());
        self.add("byte-order mark: before a space", format!("{MARK} {golden}"), mark.clone());
        self.add("byte-order mark: alone", MARK, mark);
        for (name, json, error) in [
            ("behind a space", format!(" {MARK}{golden}"), "expected value"),
            ("before a key", golden.replacen('{', &format!("{{{MARK}"), 1), "key must be a string"),
            ("before a colon", golden.replacen(':', &format!("{MARK}:"), 1), "expected `:`"),
            ("before a value", golden.replacen(": ", &format!(":{MARK}"), 1), "expected value"),
            ("before a comma", golden.replacen(',', &format!("{MARK},"), 1), "expected `,` or `}`"),
            ("at the end", format!("{golden}{MARK}"), "trailing characters"),
        ] {
            self.add(format!("byte-order mark: {name}"), json, not_json(error));
        }
        let utf_16 = |order: fn(u16) -> [u8; 2]| -> Vec<u8> {
            golden.encode_utf16().flat_map(order).collect()
        };
        let (little, big) = (utf_16(u16::to_le_bytes), utf_16(u16::to_be_bytes));
        self.add("UTF-16, little-endian", little.clone(), not_json("key must be a string"));
        self.add("UTF-16, big-endian", big.clone(), not_json("expected value"));
        let len = little.len() + 2;
        let not_utf_8 = HeaderError::NotUtf8 { at: 0, len };
        let marked = [&b"\xff\xfe"[..], &little].concat();
        self.add("UTF-16, little-endian, with its mark", marked, not_utf_8.clone());
        let marked = [&b"\xfe\xff"[..], &big].concat();
        self.add("UTF-16, big-endian, with its mark", marked, not_utf_8);
        let utf_32: Vec<u8> = golden.chars().flat_map(|c| u32::from(c).to_be_bytes()).collect();
        self.add("UTF-32", utf_32, not_json("expected value"));
    }

    /// Every way not to be UTF-8, wherever bytes can be, be it where nobody reads them.
    fn invalid_utf_8(&mut self) {
        let ways: [(&str, &[u8]); 14] = [
            ("a continuation alone", b"\x80"),
            ("the last continuation alone", b"\xbf"),
            ("two bytes, the second lacks", b"\xc3"),
            ("three bytes, the third lacks", b"\xe2\x82"),
            ("four bytes, the fourth lacks", b"\xf0\x9f\x90"),
            ("overlong in two bytes", b"\xc0\xaf"),
            ("overlong NUL", b"\xc0\x80"),
            ("overlong in three bytes", b"\xe0\x80\xaf"),
            ("overlong in four bytes", b"\xf0\x80\x80\xaf"),
            ("a leading surrogate", b"\xed\xa0\x80"),
            ("a trailing surrogate", b"\xed\xbf\xbf"),
            ("beyond U+10FFFF", b"\xf4\x90\x80\x80"),
            ("Latin-1", b"\xfc"),
            ("FF", b"\xff"),
        ];
        let places = [
            ("in a value that nobody reads", and(r#", "x": "@""#)),
            ("in a key that nobody reads", and(r#", "@": 1"#)),
            ("deep in what nobody reads", and(r#", "x": [{"y": ["@"]}]"#)),
            ("in a required value", with("content-type", r#""text/@""#)),
            ("in a required key", GOLDEN_HEADER.replace("byteorder", "byte@order")),
            ("between tokens", GOLDEN_HEADER.replacen(": ", ":@", 1)),
            ("in front", format!("@{GOLDEN_HEADER}")),
            ("at the end", format!("{GOLDEN_HEADER}@")),
        ];
        for (way, bytes) in ways {
            for (place, template) in &places {
                let at = template.find('@').expect("each template has a place");
                let (before, after) = (&template[..at], &template[at + 1..]);
                let json = [before.as_bytes(), bytes, after.as_bytes()].concat();
                let error = HeaderError::NotUtf8 { at, len: json.len() };
                self.add(format!("not UTF-8: {way}, {place}"), json, error);
            }
        }
    }

    fn control_characters(&mut self) {
        let error = || not_json("control character (\\u0000-\\u001F) found while parsing a string");
        for control in '\0'..' ' {
            let json = and(&format!(", \"x\": \"a{control}b\""));
            self.add(format!("control character: {control:?}"), json, error());
        }
        for control in ['\0', '\n', '\t', '\x1f'] {
            let key = and(&format!(", \"a{control}b\": 1"));
            self.add(format!("control character: {control:?} in a key"), key, error());
            let value = with("content-type", &format!("\"text/json{control}\""));
            self.add(format!("control character: {control:?} in a type"), value, error());
        }
        for (name, space) in [
            ("NUL", "\0"),
            ("a vertical tab", "\x0b"),
            ("a form feed", "\x0c"),
            ("a no-break space", "\u{a0}"),
            ("a line separator", "\u{2028}"),
            ("a zero-width space", "\u{200b}"),
        ] {
            let json = GOLDEN_HEADER.replacen(": ", &format!(":{space}"), 1);
            self.add(format!("between tokens: {name}"), json, not_json("expected value"));
        }
    }

    fn escapes(&mut self) {
        const LONE: &str = "lone leading surrogate in hex escape";
        for (escape, error) in [
            (r"\udc00", LONE),
            (r"\udfff", LONE),
            (r"\ud800\u0041", LONE),
            (r"\ud800\ud800", LONE),
            (r"\udc00\ud800", LONE),
            (r"\ud800", "unexpected end of hex escape"),
            (r"\ud800x", "unexpected end of hex escape"),
            (r"\ud800\n", "unexpected end of hex escape"),
            (r"\a", "invalid escape"),
            (r"\'", "invalid escape"),
            (r"\x41", "invalid escape"),
            (r"\0", "invalid escape"),
            (r"\U00000041", "invalid escape"),
            (r"\u12", "invalid escape"),
            (r"\u12G4", "invalid escape"),
            (r"\u{41}", "invalid escape"),
            (r"\u+041", "invalid escape"),
        ] {
            for (place, json) in [
                ("in a value", and(&format!(r#", "x": "{escape} ...""#))),
                ("in a key", and(&format!(r#", "{escape} ...": 1"#))),
                ("in a type", with("content-type", &format!(r#""{escape} ...""#))),
            ] {
                self.add(format!("escape: {escape} {place}"), json, not_json(error));
            }
        }
        let json = with("content-type", r#""text/json\""#);
        self.add("escape: of the closing quote", json, not_json("expected `,` or `}`"));
    }

    fn nesting(&mut self) {
        let deep = || HeaderError::TooDeep { limit: MAX_DEPTH };
        for levels in [MAX_DEPTH, MAX_DEPTH + 1, 128, 1000, 1900] {
            let arrays = and(&format!(r#", "x": {}"#, nested(levels, "[", "", "]")));
            self.add(format!("nesting: {levels} arrays"), arrays, deep());
        }
        for levels in [MAX_DEPTH, MAX_DEPTH + 1, 128, 500] {
            let objects = and(&format!(r#", "x": {}"#, nested(levels, r#"{"":"#, "0", "}")));
            self.add(format!("nesting: {levels} objects"), objects, deep());
        }
        let both = and(&format!(r#", "x": {}"#, nested(8, r#"[{"":"#, "[]", "}]")));
        self.add("nesting: arrays and objects in turn", both, deep());
        let open = and(&format!(r#", "x": {}"#, "[".repeat(3000)));
        self.add("nesting: never closed", open, deep());
        let known = with("content-length", &nested(20, "[", "", "]"));
        self.add("nesting: under a required key", known, deep());
        let second = and(&format!(r#", "x": [[], {}]"#, nested(MAX_DEPTH - 1, "[", "", "]")));
        self.add("nesting: not in the first element", second, deep());
    }

    fn syntax(&mut self) {
        let golden = GOLDEN_HEADER;
        let colon = golden.replacen(": ", " ", 1);
        for (name, json, error) in [
            ("a comma at the end", and(","), "trailing comma"),
            ("a comma at the end of an array", and(r#", "x": [1,]"#), "trailing comma"),
            ("a comma in an empty object", and(r#", "x": {,}"#), "key must be a string"),
            ("two commas", golden.replacen(',', ",,", 1), "key must be a string"),
            ("a comma in front", golden.replacen('{', "{,", 1), "key must be a string"),
            ("no comma", golden.replacen(',', "", 1), "expected `,` or `}`"),
            ("a semicolon for a comma", golden.replacen(',', ";", 1), "expected `,` or `}`"),
            ("no colon", colon, "expected `:`"),
            ("two colons", golden.replacen(':', "::", 1), "expected value"),
            ("an equals sign for a colon", golden.replacen(':', " =", 1), "expected `:`"),
            ("single quotes", golden.replace('"', "'"), "key must be a string"),
            ("bare keys", golden.replace("\"byteorder\"", "byteorder"), "key must be a string"),
            ("a number for a key", and(", 1: 2"), "key must be a string"),
            ("null for a key", and(", null: 2"), "key must be a string"),
            ("an array for a key", and(", []: 2"), "key must be a string"),
            ("a key without a value", and(r#", "x""#), "expected `:`"),
            ("a key and a colon", and(r#", "x":"#), "expected value"),
            ("a comment in front", format!("/* */{golden}"), "expected value"),
            ("a comment within", golden.replacen(", ", ", /* */ ", 1), "key must be a string"),
            ("a comment to the line's end", and(", // x\n"), "key must be a string"),
            ("a comment of Python's", and(" # x\n"), "expected `,` or `}`"),
            ("a comment behind", format!("{golden}// x"), "trailing characters"),
            ("a letter behind", format!("{golden}x"), "trailing characters"),
            ("a brace behind", format!("{golden}}}"), "trailing characters"),
            ("a comma behind", format!("{golden},"), "trailing characters"),
            ("NUL behind", format!("{golden}\0"), "trailing characters"),
            ("a second object", format!("{golden}{golden}"), "trailing characters"),
            ("a second object on a line", format!("{golden}\n{golden}"), "trailing characters"),
            ("closed as an array", golden.replace('}', "]"), "expected `,` or `}`"),
            ("an array closed as an object", and(r#", "x": [1}"#), "expected `,` or `]`"),
            ("a string without an end", and(r#", "x": "y"#), "EOF while parsing a string"),
            ("a prefix for other parsers", format!(")]}}',\n{golden}"), "expected value"),
            ("a call", format!("callback({golden})"), "expected value"),
            ("a brace", "{".to_owned(), "EOF while parsing an object"),
            ("a closing brace", "}".to_owned(), "expected value"),
            ("two braces", format!("{{{golden}}}"), "key must be a string"),
        ] {
            self.add(format!("syntax: {name}"), json, not_json(error));
        }
    }
}

fn bad_frame(
    name: impl Into<String>,
    bytes: impl Into<Vec<u8>>,
    error: impl Into<DecodeError>,
) -> BadFrame {
    BadFrame { name: name.into(), bytes: bytes.into(), good: 0, error: error.into() }
}

fn header_lengths() -> Vec<BadFrame> {
    let limit = Limits::default().header;
    let too_long = |declared| DecodeError::HeaderTooLong { declared, limit };
    let golden = GOLDEN_HEADER.as_bytes();
    let mut bad = vec![
        bad_frame("header length: 0", [0, 0], DecodeError::EmptyHeader),
        bad_frame(
            "header length: 0 before a header",
            [&[0, 0], golden].concat(),
            DecodeError::EmptyHeader,
        ),
    ];
    for declared in [limit + 1, limit + 2, 0x7fff, 0x8000, 0xff00, 0xfffe, 0xffff] {
        let name = format!("header length: {declared}");
        bad.push(bad_frame(name, declared.to_be_bytes(), too_long(declared)));
    }
    // Whole and right but for its length.
    let padded = |length: u16| {
        let mut json = golden.to_vec();
        json.resize(usize::from(length), b' ');
        with_length(&json)
    };
    for length in [limit + 1, u16::MAX] {
        let name = format!("header length: {length}, and so much comes");
        bad.push(bad_frame(name, padded(length), too_long(length)));
    }
    let short = [&102_u16.to_be_bytes(), golden].concat();
    let error = not_json("EOF while parsing an object");
    bad.push(bad_frame("header length: one too small", short, error));
    let long = [&104_u16.to_be_bytes()[..], golden, b"{}"].concat();
    let error = not_json("trailing characters");
    bad.push(bad_frame("header length: one too large", long, error));
    let swapped = [&103_u16.to_le_bytes(), golden].concat();
    bad.push(bad_frame("header length: little-endian", swapped, too_long(0x6700)));
    let wide = [&103_u32.to_be_bytes(), golden].concat();
    bad.push(bad_frame("header length: in four bytes", wide, DecodeError::EmptyHeader));
    let wide = [&103_u32.to_le_bytes(), golden].concat();
    let error = too_long(0x6700);
    bad.push(bad_frame("header length: in four bytes, little-endian", wide, error));
    bad
}

fn content_lengths() -> Vec<BadFrame> {
    let limit = Limits::default().content;
    let declares = [
        limit + 1,
        (1 << 31) - 1,
        1 << 31,
        u64::from(u32::MAX),
        1 << 32,
        (1 << 53) + 1,
        4_000_000_000_000,
        (1 << 63) - 1,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ];
    let bad = declares.map(|declared| {
        let json = with("content-length", &declared.to_string());
        let error = DecodeError::ContentTooLong { declared, limit };
        bad_frame(format!("content length: {declared}"), with_length(json.as_bytes()), error)
    });
    bad.into()
}

/// The input ends within a frame.
fn ends() -> Vec<BadFrame> {
    let frame = golden();
    let mut bad: Vec<BadFrame> = [1, 2, 3, 50, 104, 105, 106, 145]
        .into_iter()
        .map(|have: usize| {
            let need = match have {
                ..2 => 2,
                2..105 => 105,
                105.. => 146,
            };
            let error = DecodeError::Truncated { have: have as u64, need };
            bad_frame(format!("end: after {have} bytes"), &frame[..have], error)
        })
        .collect();
    let most = with("content-length", "1048576");
    let head = with_length(most.as_bytes());
    let (have, need) = (head.len() as u64, head.len() as u64 + 1_048_576);
    let error = DecodeError::Truncated { have, need };
    bad.push(bad_frame("end: before the longest content", &*head, error));
    let error = DecodeError::Truncated { have: have + 70_000, need };
    let bytes = [head, vec![b' '; 70_000]].concat();
    bad.push(bad_frame("end: within the longest content", bytes, error));
    let error = DecodeError::Truncated { have: 2, need: 2 + 4096 };
    bad.push(bad_frame("end: before the longest header", 4096_u16.to_be_bytes(), error));
    bad
}

/// What else connects to a port.
fn other_protocols() -> Vec<BadFrame> {
    let limit = Limits::default().header;
    let too_long = |declared| DecodeError::HeaderTooLong { declared, limit };
    let postgres = b"\0\0\0\x08\x04\xd2\x16\x2f";
    vec![
        bad_frame("HTTP", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", too_long(0x4745)),
        bad_frame("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", too_long(0x5052)),
        bad_frame("TLS", *b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", too_long(0x1603)),
        bad_frame("SSH", "SSH-2.0-OpenSSH_9.9\r\n", too_long(0x5353)),
        bad_frame("PROXY", "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", too_long(0x5052)),
        bad_frame(
            "PROXY, version 2",
            *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
            DecodeError::Truncated { have: 16, need: 2 + 0x0d0a },
        ),
        bad_frame("PostgreSQL", *postgres, DecodeError::EmptyHeader),
        bad_frame("a bare header", GOLDEN_HEADER, too_long(0x7b22)),
        bad_frame("a line", "\r\n", DecodeError::Truncated { have: 2, need: 2 + 0x0d0a }),
        bad_frame("a letter", "x", DecodeError::Truncated { have: 1, need: 2 }),
        bad_frame("zeros", [0; 64], DecodeError::EmptyHeader),
        bad_frame("ones", [0xff; 64], too_long(0xffff)),
    ]
}

/// What is wrong comes behind frames that are not.
fn later_frames() -> Vec<BadFrame> {
    let limit = Limits::default().header;
    let no_colon = with_length(GOLDEN_HEADER.replacen(": ", " ", 1).as_bytes());
    let bad = [
        ("a header of 0 bytes", vec![0, 0], DecodeError::EmptyHeader),
        (
            "a header too long",
            vec![255, 255],
            DecodeError::HeaderTooLong { declared: 65535, limit },
        ),
        ("no JSON", no_colon, not_json("expected `:`").into()),
        ("an end", vec![0, 103, b'{'], DecodeError::Truncated { have: 3, need: 105 }),
        ("a line's end", vec![b'\n'], DecodeError::Truncated { have: 1, need: 2 }),
    ];
    let behind = |good: usize| {
        bad.iter().map(move |(name, bytes, error)| BadFrame {
            name: format!("behind {good}: {name}"),
            bytes: iter::repeat_n(golden(), good).flatten().chain(bytes.iter().copied()).collect(),
            good,
            error: error.clone(),
        })
    };
    [1, 3].into_iter().flat_map(behind).collect()
}
