//! The command `replay`: a recorded session once more.

mod machine;
mod page;
mod words;

use std::{
    fs,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use clap::Args;
use wirestate_core::{
    Instant,
    proxy::{self, RelayFactory},
    record::{
        self, Difference, DifferenceKind, Ended, Header, Observed, ReadErrorKind, Recordable,
        Recording, Replay, ShrinkError, ShrunkTest, Step, What,
    },
};

use self::{
    machine::{Maker, Use, with_machine},
    page::Drawing,
};
use crate::{
    CommandError,
    output::{self, printable_line},
};

/// Replays a recorded session, and says whether the output and the end are the same
///
/// A server with --record DIR has written FILE. The machine of the session is made once more from
/// the recorded flags, and gets the recorded events at the recorded times. Nothing is listened on
/// or connected to. It does not matter which of the three programs has recorded it.
///
/// If the replay differs, the error names the first event that does, by its place in the file and
/// its time.
#[derive(Args, Debug)]
pub(super) struct Flags {
    /// The recording
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Also show each event
    #[arg(long)]
    events: bool,
    /// Write a test in Rust, with the scripts of `wirestate-testkit`: the smallest one that shows
    /// how the session ends or panics; or, if the replay differs, one that passes with the program
    /// that has recorded it and fails with this one
    #[arg(long, conflicts_with = "events")]
    shrink: bool,
    /// Write a page in HTML that shows each event, state and deadline in time. A browser opens it
    /// without a network
    #[arg(long, conflicts_with_all = ["events", "shrink"])]
    html: bool,
}

/// Replays a recording.
struct Replaying<'a>(&'a Recording<'a>);

impl Use for Replaying<'_> {
    type Output = Replay;

    fn machine<M: Recordable>(self, maker: Maker<impl Fn() -> M, impl Fn() -> M>) -> Replay {
        replayed((maker.make)(), self.0, |_, _| ())
    }

    fn relay(self, relays: &RelayFactory, _: &str) -> Replay {
        proxy::replay(&mut relays.relay(self.0.header().started_at), self.0)
    }
}

/// Replays `recording` to `machine`, which is dropped.
fn replayed<M: Recordable>(
    mut machine: M,
    recording: &Recording<'_>,
    observe: impl FnMut(&Step<'_>, Observed<'_>),
) -> Replay {
    let replay = record::replay_observed(&mut machine, recording, observe);
    // After a panic, even its drop may panic.
    let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(machine)));
    replay
}

/// Makes a test of a recording.
struct Shrinking<'a>(&'a Recording<'a>);

impl Use for Shrinking<'_> {
    type Output = Result<String, String>;

    fn machine<M: Recordable>(self, maker: Maker<impl Fn() -> M, impl Fn() -> M>) -> Self::Output {
        let Maker { make, alone, source, module } = maker;
        let replay = replayed(make(), self.0, |_, _| ());
        source_of(replay, |replay| record::shrink(self.0, replay, alone), module, &source)
    }

    fn relay(self, relays: &RelayFactory, source: &str) -> Self::Output {
        let replay = Replaying(self.0).relay(relays, source);
        let make = || relays.relay(Instant::EPOCH);
        source_of(replay, |replay| record::shrink_relay(self.0, replay, make), "proxy", source)
    }
}

/// The source code of the test that `shrink` makes.
fn source_of(
    replay: Replay,
    shrink: impl FnOnce(Replay) -> Result<ShrunkTest, ShrinkError>,
    module: &str,
    source: &str,
) -> Result<String, String> {
    let difference = replay.difference.clone();
    let test = shrink(replay).map(|test| test.source(&[module], source));
    test.map_err(|error| match difference {
        Some(difference) if error == ShrinkError::NotReproduced => {
            format!("the replay differs {difference}, but {error}")
        }
        Some(_) | None => error.to_string(),
    })
}

pub(super) fn run(flags: &Flags) -> Result<(), CommandError> {
    let path = &flags.file;
    let failed = |message: String| CommandError::Replay {
        path: path.clone(),
        message: printable_line(&message),
    };
    let bytes = fs::read(path).map_err(|error| failed(error.to_string()))?;
    let (recording, mistake) =
        Recording::salvage(&bytes).map_err(|error| failed(error.to_string()))?;
    if flags.shrink {
        if let Some(mistake) = mistake.filter(|mistake| mistake.kind != ReadErrorKind::Cut) {
            return Err(failed(mistake.to_string()));
        }
        let test = quietly(|| with_machine(&recording, path, Shrinking(&recording)));
        let test = test.map_err(failed)?;
        return output::write(test.map_err(failed)?.as_bytes());
    }
    let difference = if flags.html {
        let (timeline, difference) = if recording.header().has_payloads {
            let drawing = Drawing { recording: &recording, has_mistake: mistake.is_some() };
            quietly(|| with_machine(&recording, path, drawing)).map_err(failed)?
        } else {
            (page::without_replay(&recording), None)
        };
        let mut page = Vec::new();
        timeline.write_html(&mut page).map_err(CommandError::Output)?;
        output::write(&page)?;
        difference
    } else {
        output::write(description(recording.header()).as_bytes())?;
        if flags.events {
            let machine = recording.header().field("machine").unwrap_or_default();
            for step in recording.steps() {
                output::write(line(machine, &step).as_bytes())?;
            }
        }
        let replay = quietly(|| with_machine(&recording, path, Replaying(&recording)));
        let replay = replay.map_err(failed)?;
        output::write(result(&recording, &replay, mistake.is_some()).as_bytes())?;
        replay.difference
    };
    match (difference, mistake) {
        (None, None) => Ok(()),
        (Some(difference), _) if difference.kind == DifferenceKind::NoPayloads => {
            let offset = difference.offset;
            Err(failed(format!(
                "the recording has no payloads, so it cannot be replayed beyond byte {offset}"
            )))
        }
        (Some(difference), None) => Err(failed(format!("the replay differs {difference}"))),
        (Some(difference), Some(mistake)) => Err(failed(format!(
            "the replay differs {difference}; the recording has a mistake {mistake}"
        ))),
        (None, Some(mistake)) if recording.header().has_payloads => {
            Err(failed(format!("the replay is the same up to a mistake {mistake}")))
        }
        (None, Some(mistake)) => Err(failed(format!("the recording has a mistake {mistake}"))),
    }
}

/// Calls `f`. A panic of the machine is a result, and not reported. One that leaves `f` is a fault
/// of this program.
fn quietly<T>(f: impl FnOnce() -> T) -> T {
    static LAST: Mutex<String> = Mutex::new(String::new());

    let last = || LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |panic| *last() = panic.to_string()));
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    panic::set_hook(hook);
    result.unwrap_or_else(|_| panic!("{}", *last()))
}

fn description(header: &Header) -> String {
    let field = |name| printable_line(header.field(name).unwrap_or("-"));
    let words: Vec<_> = header.values("word").collect();
    format!(
        "machine      {} {} of {}, peer {}\nrecorded by  process {} on {}\ncommand      {}\n",
        field("machine"),
        field("connection"),
        field("server"),
        field("peer"),
        field("process"),
        field("runtime"),
        printable_line(&words.join(" ")),
    )
}

/// The line of a step.
fn line(machine: &str, step: &Step<'_>) -> String {
    let Step { offset, at, side, what, outside: _ } = step;
    let what = match what {
        What::Start => "the machine was made".to_owned(),
        What::Received { len, bytes: None } => format!("received {len} bytes"),
        What::Received { bytes: Some(bytes), .. } => {
            let shown = &bytes[..bytes.len().min(SHOWN)];
            format!("received {} bytes: {}", bytes.len(), shown.escape_ascii())
        }
        What::Sent { len, .. } => format!("sent {len} bytes"),
        What::Finished { is_reset: false } => "sent a FIN".to_owned(),
        What::Finished { is_reset: true } => "sent an RST".to_owned(),
        What::Event(event) => format!("{event:?}"),
        What::Shared => "found news in shared state".to_owned(),
        What::Note(note) => words::of_note(note),
    };
    let outside = words::of_outside(machine, step).map(|outside| format!("; {outside}"));
    let outside = outside.unwrap_or_default();
    format!("{offset:>10} {at} {}{what}{outside}\n", if *side == 0 { "" } else { "upstream: " })
}

fn result(recording: &Recording<'_>, replay: &Replay, has_mistake: bool) -> String {
    let Replay { events, sent, digests, reason, panic, .. } = replay;
    let sides = if sent[1] > 0 { 2 } else { 1 };
    let sent = sent.iter().zip(digests).take(sides);
    let sent: Vec<_> =
        sent.map(|(sent, digest)| format!("{sent} bytes, digest {digest:016x}")).collect();
    let end = match (reason, panic) {
        (Some((label, text)), _) => format!("{label}: {text}"),
        (None, Some(message)) => format!("a panic, as recorded: {message}"),
        (None, None) => "it has not ended".to_owned(),
    };
    format!(
        "events       {events}\nsent         {}\nended        {}\nrecorded     {}\n\
         replayed     {}\n",
        sent.join("; to the upstream "),
        printable_line(&end),
        printable_line(&recorded_end(recording)),
        verdict(recording, replay, has_mistake),
    )
}

/// How far the replay is the same.
fn verdict(recording: &Recording<'_>, replay: &Replay, has_mistake: bool) -> &'static str {
    match &replay.difference {
        Some(Difference { kind: DifferenceKind::NoPayloads, .. }) => {
            "the same output up to the first bytes that were received"
        }
        Some(_) => "a difference",
        None if has_mistake => "the same output up to the mistake",
        None if recording.stop().is_some() => "the same output up to where the recording stops",
        None => "the same output and end",
    }
}

/// How the recorded session has ended.
fn recorded_end(recording: &Recording<'_>) -> String {
    match (recording.end(), recording.stop()) {
        (_, Some(stop)) => format!("the recording stopped early: {stop}"),
        (None, None) => "no end: the recording is cut or has a mistake".to_owned(),
        (Some(end), None) => match end.ended {
            Ended::Reason(_) => format!("{}: {}", end.label, end.text),
            Ended::Dropped => "the connection was aborted".to_owned(),
            Ended::Panicked => "a panic".to_owned(),
        },
    }
}

/// How many bytes of what was received are shown.
const SHOWN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// A terminal executes control characters, and a line feed would begin another field.
    #[test]
    fn text_of_a_recording_is_shown_without_control_characters() {
        let head = "wirestate recording 1\nstarted 0\npayloads yes\nmachine \x1b[2J\n\
                    peer a\\nreplayed     the same\nword \x1bc\n\n";
        let notes = [&b"\x0a\x0c\x02label\na\nb\x1bc"[..], b"\x0a\x07\x06\0a\nb\x1bc"].concat();
        let end = [&[14, 1][..], &[0; 18], b"\x05a\nb\x1bc\x05a\nb\x1bc"].concat();
        let bytes = [head.as_bytes(), &notes, &end].concat();
        let recording = Recording::read(&bytes).unwrap();
        let shown = description(recording.header());
        assert!(shown.contains("peer a\\nreplayed     the same\n"), "{shown}");
        let replay = Replay {
            difference: None,
            events: 0,
            sent: [0; 2],
            digests: [0; 2],
            reason: Some(("a\nb\x1bc".to_owned(), "a\nb\x1bc".to_owned())),
            panic: None,
        };
        let lines: String = recording.steps().map(|step| line("relay", &step)).collect();
        assert_eq!(lines.lines().count(), 3, "{lines}");
        let result = result(&recording, &replay, false);
        assert_eq!(result.lines().count(), 5, "{result}");
        for shown in [shown, lines, result] {
            assert!(!shown.contains('\x1b') && shown.contains("\\u{1b}"), "{shown}");
        }
    }

    #[test]
    fn only_a_panic_that_is_caught_is_quiet() {
        let caught = quietly(|| panic::catch_unwind(|| panic!("of the machine")).is_err());
        assert!(caught);
        let result = panic::catch_unwind(|| quietly(|| panic!("of this program")));
        let message = *result.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("of this program"), "{message}");
    }
}
