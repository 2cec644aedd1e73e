//! Invalid headers, by name, with the error of each.

use wirestate_core::message::{HeaderError, JsonType, MAX_DEPTH};

use super::GOLDEN_HEADER;

/// A header that a decoder must refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadHeader {
    /// A unique name that says what is wrong.
    pub name: String,
    /// The header, without the two bytes of its length.
    pub json: Vec<u8>,
    /// The error that the decoder must return. The text of a [`HeaderError::NotJson`] lacks the
    /// position, which follows it in the decoder's error.
    pub error: HeaderError,
}

impl BadHeader {
    /// Whether `error` is the error that the decoder must return.
    pub fn expects(&self, error: &HeaderError) -> bool {
        matches(&self.error, error)
    }
}

pub(super) fn matches(expected: &HeaderError, found: &HeaderError) -> bool {
    match (expected, found) {
        (HeaderError::NotJson(expected), HeaderError::NotJson(found)) => found
            .strip_prefix(&**expected)
            .is_some_and(|position| position.is_empty() || position.starts_with(" at line ")),
        (expected, found) => expected == found,
    }
}

/// Some hundreds of invalid headers, from the corner cases of JSON to common errors of clients.
/// Each is within [`FrameLimits::default`](wirestate_core::message::FrameLimits::default).
pub fn bad_headers() -> Vec<BadHeader> {
    let mut bad = Families(Vec::new());
    bad.missing_keys();
    bad.wrong_types();
    bad.invalid_lengths();
    bad.invalid_numbers();
    bad.invalid_values();
    bad.byte_orders();
    bad.other_types_than_objects();
    bad.duplicate_keys();
    bad.byte_order_marks();
    bad.invalid_utf_8();
    bad.control_characters();
    bad.escapes();
    bad.nesting();
    bad.syntax();
    bad.0
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

/// The golden header with another value under `key`.
pub(super) fn with_value(key: &str, value: &str) -> String {
    object(KEYS.map(|(k, v)| (k, if k == key { value } else { v }.to_owned())))
}

/// The golden header with `more` behind its last value.
fn with_suffix(more: &str) -> String {
    let all = object(KEYS.map(|(key, value)| (key, value.to_owned())));
    format!("{}{more}}}", &all[..all.len() - 1])
}

/// `levels` times `open`, then `inner`, then `levels` times `close`.
fn nested(levels: usize, open: &str, inner: &str, close: &str) -> String {
    [&*open.repeat(levels), inner, &*close.repeat(levels)].concat()
}

pub(super) fn not_json(text: &str) -> HeaderError {
    HeaderError::NotJson(text.into())
}

fn duplicate_key(key: &str) -> HeaderError {
    HeaderError::DuplicateKey { key: key.into() }
}

/// The list, with one method for each family of invalid headers.
struct Families(Vec<BadHeader>);

impl Families {
    fn add(&mut self, name: impl Into<String>, json: impl Into<Vec<u8>>, error: HeaderError) {
        self.0.push(BadHeader { name: name.into(), json: json.into(), error });
    }

    /// Every subset of the required keys; the error names the first missing key.
    fn missing_keys(&mut self) {
        for missing in 1..16_u32 {
            let (present, absent): (Vec<_>, Vec<_>) =
                (0..4).zip(KEYS).partition(|(i, _)| missing & (1 << i) == 0);
            let names: Vec<&str> = absent.iter().map(|(_, (key, _))| *key).collect();
            let json = object(present.into_iter().map(|(_, (key, value))| (key, value.to_owned())));
            let error = HeaderError::Missing { key: names[0] };
            self.add(format!("missing: {}", names.join(", ")), json, error);
        }
        for (key, _) in KEYS {
            for (how, other) in
                [("in capitals", key.to_uppercase()), ("with a space", format!("{key} "))]
            {
                let json = with_suffix("").replace(&format!("\"{key}\""), &format!("\"{other}\""));
                self.add(format!("missing: {key}, {how}"), json, HeaderError::Missing { key });
            }
        }
        let underscores = with_suffix("").replace('-', "_").replace("utf_8", "utf-8");
        let error = HeaderError::Missing { key: "content-type" };
        self.add("missing: underscores in the names", underscores, error);
    }

    /// Every JSON type where another is expected.
    fn wrong_types(&mut self) {
        let kinds = [
            ("null", JsonType::Null),
            ("true", JsonType::Boolean),
            ("false", JsonType::Boolean),
            ("0", JsonType::Number),
            ("41", JsonType::Number),
            ("18446744073709551615", JsonType::Number),
            ("-1", JsonType::Number),
            ("-9223372036854775808", JsonType::Number),
            ("-0", JsonType::Number),
            ("1.5", JsonType::Number),
            ("3.0", JsonType::Number),
            ("3e0", JsonType::Number),
            ("1E2", JsonType::Number),
            ("4.1e1", JsonType::Number),
            ("18446744073709551616", JsonType::Number),
            ("-9223372036854775809", JsonType::Number),
            (r#""""#, JsonType::String),
            (r#""3""#, JsonType::String),
            (r#""little""#, JsonType::String),
            ("[]", JsonType::Array),
            ("[41]", JsonType::Array),
            (r#"["little"]"#, JsonType::Array),
            ("{}", JsonType::Object),
            (r#"{"a": 41}"#, JsonType::Object),
        ];
        for (key, _) in KEYS {
            let (right, expected) = match key {
                "content-length" => (JsonType::Number, "a whole number of bytes"),
                _string => (JsonType::String, "a string"),
            };
            for (value, found) in kinds.into_iter().filter(|(_, found)| *found != right) {
                let error = HeaderError::WrongType { key, expected, found };
                self.add(format!("wrong type: {key}: {value}"), with_value(key, value), error);
            }
        }
    }

    /// Numbers that are not a length, and how the error shows them.
    fn invalid_lengths(&mut self) {
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
            self.add(
                format!("invalid length: {value}"),
                with_value("content-length", value),
                error,
            );
        }
    }

    /// Numbers that JSON does not allow, but other formats and lenient parsers do.
    fn invalid_numbers(&mut self) {
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
            self.add(
                format!("invalid number: {value}"),
                with_value("content-length", value),
                not_json(error),
            );
        }
    }

    /// Values that JSON does not allow, but other languages do.
    fn invalid_values(&mut self) {
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
            self.add(
                format!("invalid value: {value}"),
                with_value("byteorder", value),
                not_json(error),
            );
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
            let json = with_value("byteorder", &format!("\"{}\"", found.replace('\0', "\\u0000")));
            let name = format!("byte order: {found:?}");
            self.add(name, json, HeaderError::ByteOrder { found: found.into() });
        }
        let json = with_value("byteorder", &format!("\"{}\"", "x".repeat(2000)));
        let found = format!("{}…", "x".repeat(32)).into();
        self.add("byte order: 2000 characters", json, HeaderError::ByteOrder { found });
    }

    fn other_types_than_objects(&mut self) {
        for (json, found) in [
            ("null", JsonType::Null),
            ("true", JsonType::Boolean),
            ("false", JsonType::Boolean),
            ("0", JsonType::Number),
            ("-1", JsonType::Number),
            ("1.5", JsonType::Number),
            (r#""""#, JsonType::String),
            (r#""little""#, JsonType::String),
            ("[]", JsonType::Array),
            ("[{}]", JsonType::Array),
            (r#"["little","text/json","utf-8",41]"#, JsonType::Array),
            (r#"[["byteorder","little"],["content-length",41]]"#, JsonType::Array),
            ("[", JsonType::Array),
        ] {
            self.add(format!("not an object: {json}"), json, HeaderError::NotAnObject { found });
        }
        let array = format!("[{GOLDEN_HEADER}]");
        self.add(
            "not an object: one in an array",
            array,
            HeaderError::NotAnObject { found: JsonType::Array },
        );
        let text = format!("\"{}\"", GOLDEN_HEADER.replace('"', "\\\""));
        self.add(
            "not an object: one in a string",
            text,
            HeaderError::NotAnObject { found: JsonType::String },
        );
        let levels = nested(2000, "[", "", "]");
        self.add(
            "not an object: 2000 arrays",
            levels,
            HeaderError::NotAnObject { found: JsonType::Array },
        );
        for (name, json, error) in [
            ("a space", " ", "EOF while parsing a value"),
            ("a line", "\r\n", "EOF while parsing a value"),
            ("NUL", "\0", "expected value"),
            ("a bare word", "hello", "expected value"),
            ("an unterminated string", "\"little", "EOF while parsing a string"),
            ("a form", "byteorder=little&content-length=41", "expected value"),
            ("XML", "<header byteorder='little'/>", "expected value"),
            ("YAML", "byteorder: little", "expected value"),
            ("a no-break space before it", "\u{a0}{}", "expected value"),
        ] {
            self.add(format!("not JSON: {name}"), json, not_json(error));
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
                self.add(
                    format!("duplicate: {key}, {how}"),
                    with_suffix(&again),
                    duplicate_key(key),
                );
            }
            let first = with_suffix("").replacen('{', &format!(r#"{{"{key}": {value}, "#), 1);
            self.add(format!("duplicate: {key}, in front"), first, duplicate_key(key));
        }
        for (name, more, key) in [
            ("an unknown key", r#", "x": 1, "x": 1"#, "x"),
            ("with other keys in between", r#", "x": 1, "y": 2, "z": 3, "x": 1"#, "x"),
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
            self.add(format!("duplicate: {name}"), with_suffix(more), duplicate_key(key));
        }
        let long = "k".repeat(1000);
        let json = with_suffix(&format!(r#", "{long}": 1, "{long}": 2"#));
        self.add(
            "duplicate: a key of 1000 characters",
            json,
            duplicate_key(&format!("{}…", "k".repeat(32))),
        );
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

    /// Every kind of invalid UTF-8, at every place of a header, unknown keys and values included.
    fn invalid_utf_8(&mut self) {
        let invalid: [(&str, &[u8]); 14] = [
            ("a continuation alone", b"\x80"),
            ("the last continuation alone", b"\xbf"),
            ("two bytes, the second is missing", b"\xc3"),
            ("three bytes, the third is missing", b"\xe2\x82"),
            ("four bytes, the fourth is missing", b"\xf0\x9f\x90"),
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
            ("in an unknown value", with_suffix(r#", "x": "@""#)),
            ("in an unknown key", with_suffix(r#", "@": 1"#)),
            ("deep in an unknown value", with_suffix(r#", "x": [{"y": ["@"]}]"#)),
            ("in a required value", with_value("content-type", r#""text/@""#)),
            ("in a required key", GOLDEN_HEADER.replace("byteorder", "byte@order")),
            ("between tokens", GOLDEN_HEADER.replacen(": ", ":@", 1)),
            ("in front", format!("@{GOLDEN_HEADER}")),
            ("at the end", format!("{GOLDEN_HEADER}@")),
        ];
        for (kind, bytes) in invalid {
            for (place, template) in &places {
                let at = template.find('@').expect("each template marks its place by @");
                let (before, after) = (&template[..at], &template[at + 1..]);
                let json = [before.as_bytes(), bytes, after.as_bytes()].concat();
                let error = HeaderError::NotUtf8 { at, len: json.len() };
                self.add(format!("not UTF-8: {kind}, {place}"), json, error);
            }
        }
    }

    fn control_characters(&mut self) {
        let error = || not_json("control character (\\u0000-\\u001F) found while parsing a string");
        for control in '\0'..' ' {
            let json = with_suffix(&format!(", \"x\": \"a{control}b\""));
            self.add(format!("control character: {control:?}"), json, error());
        }
        for control in ['\0', '\n', '\t', '\x1f'] {
            let key = with_suffix(&format!(", \"a{control}b\": 1"));
            self.add(format!("control character: {control:?} in a key"), key, error());
            let value = with_value("content-type", &format!("\"text/json{control}\""));
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
                ("in a value", with_suffix(&format!(r#", "x": "{escape} ...""#))),
                ("in a key", with_suffix(&format!(r#", "{escape} ...": 1"#))),
                ("in a type", with_value("content-type", &format!(r#""{escape} ...""#))),
            ] {
                self.add(format!("escape: {escape} {place}"), json, not_json(error));
            }
        }
        let json = with_value("content-type", r#""text/json\""#);
        self.add("escape: of the closing quote", json, not_json("expected `,` or `}`"));
    }

    fn nesting(&mut self) {
        let deep = || HeaderError::TooDeep { limit: MAX_DEPTH };
        for levels in [MAX_DEPTH, MAX_DEPTH + 1, 128, 1000, 1900] {
            let arrays = with_suffix(&format!(r#", "x": {}"#, nested(levels, "[", "", "]")));
            self.add(format!("nesting: {levels} arrays"), arrays, deep());
        }
        for levels in [MAX_DEPTH, MAX_DEPTH + 1, 128, 500] {
            let objects =
                with_suffix(&format!(r#", "x": {}"#, nested(levels, r#"{"":"#, "0", "}")));
            self.add(format!("nesting: {levels} objects"), objects, deep());
        }
        let both = with_suffix(&format!(r#", "x": {}"#, nested(8, r#"[{"":"#, "[]", "}]")));
        self.add("nesting: arrays and objects in turn", both, deep());
        let open = with_suffix(&format!(r#", "x": {}"#, "[".repeat(3000)));
        self.add("nesting: never closed", open, deep());
        let known = with_value("content-length", &nested(20, "[", "", "]"));
        self.add("nesting: under a required key", known, deep());
        let second =
            with_suffix(&format!(r#", "x": [[], {}]"#, nested(MAX_DEPTH - 1, "[", "", "]")));
        self.add("nesting: not in the first element", second, deep());
    }

    fn syntax(&mut self) {
        let golden = GOLDEN_HEADER;
        let colon = golden.replacen(": ", " ", 1);
        for (name, json, error) in [
            ("a comma at the end", with_suffix(","), "trailing comma"),
            ("a comma at the end of an array", with_suffix(r#", "x": [1,]"#), "trailing comma"),
            ("a comma in an empty object", with_suffix(r#", "x": {,}"#), "key must be a string"),
            ("two commas", golden.replacen(',', ",,", 1), "key must be a string"),
            ("a comma in front", golden.replacen('{', "{,", 1), "key must be a string"),
            ("no comma", golden.replacen(',', "", 1), "expected `,` or `}`"),
            ("a semicolon for a comma", golden.replacen(',', ";", 1), "expected `,` or `}`"),
            ("no colon", colon, "expected `:`"),
            ("two colons", golden.replacen(':', "::", 1), "expected value"),
            ("an equals sign for a colon", golden.replacen(':', " =", 1), "expected `:`"),
            ("single quotes", golden.replace('"', "'"), "key must be a string"),
            ("bare keys", golden.replace("\"byteorder\"", "byteorder"), "key must be a string"),
            ("a number for a key", with_suffix(", 1: 2"), "key must be a string"),
            ("null for a key", with_suffix(", null: 2"), "key must be a string"),
            ("an array for a key", with_suffix(", []: 2"), "key must be a string"),
            ("a key without a value", with_suffix(r#", "x""#), "expected `:`"),
            ("a key and a colon", with_suffix(r#", "x":"#), "expected value"),
            ("a comment in front", format!("/* */{golden}"), "expected value"),
            ("a comment within", golden.replacen(", ", ", /* */ ", 1), "key must be a string"),
            ("a comment to the line's end", with_suffix(", // x\n"), "key must be a string"),
            ("a comment of Python", with_suffix(" # x\n"), "expected `,` or `}`"),
            ("a comment behind", format!("{golden}// x"), "trailing characters"),
            ("a letter behind", format!("{golden}x"), "trailing characters"),
            ("a brace behind", format!("{golden}}}"), "trailing characters"),
            ("a comma behind", format!("{golden},"), "trailing characters"),
            ("NUL behind", format!("{golden}\0"), "trailing characters"),
            ("a second object", format!("{golden}{golden}"), "trailing characters"),
            ("a second object on a line", format!("{golden}\n{golden}"), "trailing characters"),
            ("closed as an array", golden.replace('}', "]"), "expected `,` or `}`"),
            ("an array closed as an object", with_suffix(r#", "x": [1}"#), "expected `,` or `]`"),
            ("a string without an end", with_suffix(r#", "x": "y"#), "EOF while parsing a string"),
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
