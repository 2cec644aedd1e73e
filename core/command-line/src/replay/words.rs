//! What a recording has in an encoding of its machine, in words.

use core::time::Duration;

use wirestate_core::{
    Instant,
    proxy::RelayCall,
    record::{Step, What, take_number},
};

/// The call of a relay that a note has.
pub(super) fn of_note(note: &[u8]) -> String {
    RelayCall::decode(note).map_or_else(|| note.escape_ascii().to_string(), |call| call.to_string())
}

/// What `machine` has used from outside in a step. `None`: nothing.
pub(super) fn of_outside(machine: &str, step: &Step<'_>) -> Option<String> {
    let outside = step.outside;
    if outside.is_empty() {
        return None;
    }
    let words = match machine {
        "message" => replies(outside),
        "upstream" => capacity(outside, "the next chunk of the log is"),
        "publisher" => capacity(outside, "it publishes chunk"),
        "subscriber" => log(outside, step.what == What::Start),
        _ => None,
    };
    words.or_else(|| Some(format!("{} from outside", bytes(outside.len()))))
}

fn bytes(count: usize) -> String {
    if count == 1 { "1 byte".to_owned() } else { format!("{count} bytes") }
}

/// The replies of asynchronous services that became ready.
fn replies(mut outside: &[u8]) -> Option<String> {
    let (mut count, mut sum) = (0, 0);
    while !outside.is_empty() {
        number(&mut outside)?;
        let len = usize::try_from(number(&mut outside)?).ok()?;
        outside = outside.get(len..)?;
        (count, sum) = (count + 1, sum + len);
    }
    let replies = if count == 1 { "a reply".to_owned() } else { format!("{count} replies") };
    Some(format!("{replies} of {} became ready", bytes(sum)))
}

/// Whether an upstream or a publisher may publish, and where.
fn capacity(mut outside: &[u8], next: &str) -> Option<String> {
    let capacity = match outside.split_off_first()? {
        0 => "subscribers have capacity".to_owned(),
        1 => "paused until a subscriber has read more".to_owned(),
        2 => {
            let until = Duration::from_nanos(number(&mut outside)?);
            format!("paused until {} for subscribers that lag", Instant::from_epoch(until))
        }
        _ => return None,
    };
    if outside.is_empty() {
        return Some(capacity);
    }
    let (chunk, message) = (number(&mut outside)?, number(&mut outside)?);
    Some(format!("{capacity}; {next} {chunk}, from message {message} on"))
}

/// What a subscriber has seen of the log.
fn log(mut outside: &[u8], is_start: bool) -> Option<String> {
    let mut words = Vec::new();
    if is_start {
        let (chunk, message) = (number(&mut outside)?, number(&mut outside)?);
        words.push(format!("it joins at chunk {chunk} of the log, message {message}"));
    }
    let flags = outside.split_off_first()?;
    words.push(format!("the log ends before chunk {}", number(&mut outside)?));
    if flags & 1 != 0 {
        words.push("it has fallen out of the window".to_owned());
    }
    if flags & 2 != 0 {
        let (_, message) = (number(&mut outside)?, number(&mut outside)?);
        words.push(format!("it ends before message {message}"));
    }
    Some(words.join("; "))
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    take_number(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(machine: &str, what: What<'_>, outside: &[u8]) -> String {
        let step = Step { offset: 0, at: Instant::EPOCH, side: 0, what, outside };
        of_outside(machine, &step).unwrap_or_default()
    }

    #[test]
    fn what_comes_from_outside_is_said_in_words() {
        for (machine, what, outside, expected) in [
            ("echo", What::Shared, &b""[..], ""),
            ("message", What::Shared, b"\0\x05hello", "a reply of 5 bytes became ready"),
            ("message", What::Shared, b"\0\x01a\x01\0", "2 replies of 1 byte became ready"),
            ("publisher", What::Shared, b"\x01", "paused until a subscriber has read more"),
            (
                "upstream",
                What::Shared,
                b"\x02\x07\x03\x09",
                "paused until 7ns for subscribers that lag; the next chunk of the log is 3, from \
                 message 9 on",
            ),
            (
                "subscriber",
                What::Start,
                b"\x04\x09\0\x06",
                "it joins at chunk 4 of the log, message 9; the log ends before chunk 6",
            ),
            (
                "subscriber",
                What::Shared,
                b"\x03\x06\x07\x08",
                "the log ends before chunk 6; it has fallen out of the window; it ends before \
                 message 8",
            ),
            // Hostile ones are shown by their length.
            ("subscriber", What::Start, b"\x04", "1 byte from outside"),
            ("message", What::Shared, b"\0\xff", "2 bytes from outside"),
            ("upstream", What::Shared, b"\x09", "1 byte from outside"),
        ] {
            assert_eq!(words(machine, what, outside), expected);
        }
    }
}
