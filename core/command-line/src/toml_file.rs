//! Files in TOML: reading them, and mistakes in them.

use std::{
    fs,
    io::Read,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};
use wirestate_core::quantity::Size;

use crate::CommandError;

/// A value at a place of the file.
pub(crate) type Value<'i> = Spanned<DeValue<'i>>;

/// A mistake at a place of the file.
pub(crate) struct Mistake {
    pub(crate) at: Range<usize>,
    pub(crate) message: String,
}

/// Reads a file, at most 1 MiB, and converts it.
///
/// # Errors
/// It cannot be read, or has a mistake. The error has the line and the column.
pub(crate) fn load<T>(
    path: &Path,
    convert: impl FnOnce(&str) -> Result<T, Mistake>,
) -> Result<T, CommandError> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_LENGTH + 1).read_to_end(&mut bytes))
        .map_err(|error| CommandError::ReadConfiguration { path: PathBuf::from(path), error })?;
    if bytes.len() as u64 > MAX_LENGTH {
        let message = format!("the file is longer than {}", Size(MAX_LENGTH));
        return Err(Mistake::new(0..0, message).in_file(path, ""));
    }
    let text = str::from_utf8(&bytes).map_err(|error| {
        let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let end = valid.len();
        Mistake::new(end..end, "this byte is not UTF-8").in_file(path, &valid)
    })?;
    convert(text).map_err(|mistake| mistake.in_file(path, text))
}

/// The table at the top of a text.
pub(crate) fn document(text: &str) -> Result<Spanned<DeTable<'_>>, Mistake> {
    DeTable::parse(text).map_err(|error| Mistake {
        at: error.span().unwrap_or(0..0),
        message: error.message().to_owned(),
    })
}

/// The text of a string or of a decimal whole number; `None` for another value.
pub(crate) fn word(value: &DeValue<'_>) -> Option<String> {
    let number = value.as_integer().filter(|number| number.radix() == 10);
    let number = number.map(|number| number.as_str().replace('_', ""));
    value.as_str().map(ToOwned::to_owned).or(number)
}

/// A value for a message.
pub(crate) fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "[…]".into(),
        DeValue::Table(_) => "{…}".into(),
    }
}

impl Mistake {
    pub(crate) fn new(at: Range<usize>, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }

    pub(crate) fn in_file(self, path: &Path, text: &str) -> CommandError {
        let before = &text[..self.at.start.min(text.len())];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        CommandError::Configuration {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: self.message,
        }
    }
}

/// The longest file, in bytes.
const MAX_LENGTH: u64 = 1024 * 1024;
