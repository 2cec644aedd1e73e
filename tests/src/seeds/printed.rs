//! A failing world as a test in Rust.

use std::{collections::BTreeSet, fmt::Write as _, num::NonZeroU64};

use super::{saved::Case, shrink::Smallest};
use crate::{
    failure::{Copy, Place},
    sim::decisions::{Choice, Decision, Number},
};

/// A test that runs only the world of `case`.
///
/// If the call of `for_each_seed` is in a test, this is a copy of that test. Otherwise its body is
/// left to the reader.
pub(super) fn test(place: &Place, case: &Case, smallest: &Smallest) -> String {
    let (seed, name) = (case.seed, place.function());
    let source = place.source().unwrap_or_default();
    let copy = Copy::of(&source, place, "for_each_seed");
    if let Some((copy, test)) = copy.as_ref().and_then(|copy| Some((copy, copy.arguments.last()?)))
    {
        let call = format!("wirestate_testkit::replay({seed}, world, {test})");
        let world = world(case, copy.call_indent) + "\n";
        return comment(copy.indent, smallest) + &copy.with(&seed.to_string(), "", &world, &call);
    }
    let (comment, world) = (comment("", smallest), world(case, "    "));
    format!(
        "{comment}#[test]\nfn {name}_{seed}() {{\n{world}\n    \
         wirestate_testkit::replay({seed}, world, |seed| {{\n        \
         // as in `for_each_seed`\n    }});\n}}\n",
    )
}

/// How the test fails, and what its peers do.
fn comment(indent: &str, smallest: &Smallest) -> String {
    let mut text = smallest.failure.comment(indent);
    let streams: BTreeSet<_> = smallest.acts.iter().map(|act| &act.stream).collect();
    for stream in streams.iter().take(MAX_PEERS) {
        let mut line = format!("{indent}// {stream} performs");
        let acts = smallest.acts.iter().filter(|act| act.stream == **stream);
        let mut acts: Vec<_> = acts.map(|act| act.text.clone()).collect();
        let more = acts.len().saturating_sub(MAX_ACTS);
        if more > 0 {
            acts.truncate(MAX_ACTS);
            acts.push(format!("and {more} more"));
        }
        for (i, act) in acts.iter().enumerate() {
            line += if i == 0 { ": " } else { ", " };
            let width = line.lines().last().map_or(0, |line| line.chars().count());
            if i > 0 && width + act.chars().count() > 98 {
                line.truncate(line.trim_end().len());
                let _ = write!(line, "\n{indent}//   ");
            }
            line += act;
        }
        let _ = writeln!(text, "{line}.");
    }
    if let Some(more) = streams.len().checked_sub(MAX_PEERS).filter(|more| *more > 0) {
        let _ = writeln!(text, "{indent}// There are {more} other peers.");
    }
    text
}

/// The decisions as a variable, each with its meaning.
fn world(case: &Case, indent: &str) -> String {
    if case.decisions.is_empty() {
        return format!("{indent}let world = \"\"; // without faults or delays");
    }
    let lines: Vec<_> = case.decisions.iter().map(|one| (one.to_string(), meaning(&one))).collect();
    let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (line, meaning) in lines {
        let line = format!("{indent}    {line:width$}  # {meaning}");
        let _ = writeln!(text, "{}", line.trim_end_matches(|c| " #".contains(c)));
    }
    let is_raw = text.contains(['"', '\\']);
    let (open, close) = if is_raw { ("r#\"", "\"#") } else { ("\"", "\"") };
    format!("{indent}let world = {open}\n{text}{indent}{close};")
}

/// What a decision does. Empty for a name that is not known here.
fn meaning(decision: &Decision) -> String {
    let Decision { name, number, choice, .. } = decision;
    let bytes = match choice {
        Choice::Number(number) if *number != 1 => format!("{number} bytes"),
        Choice::Number(_) | Choice::Strikes | Choice::Time(_) => "1 byte".to_owned(),
    };
    // A decision that repeats has the value of one of those that it replaces.
    let is_limit = matches!(number, Number::Each(_)) && bytes != "1 byte";
    let at_most = if is_limit { "at most " } else { "" };
    let time = match choice {
        Choice::Time(time) => format!("{time:?}"),
        Choice::Number(_) | Choice::Strikes => "the shortest time".to_owned(),
    };
    let (its, the) = match number {
        Number::Each(NonZeroU64::MIN) => ("each".to_owned(), "each".to_owned()),
        Number::Each(n) => (format!("each {}", nth(n.get())), format!("each {}", nth(n.get()))),
        Number::Nth(n) => (format!("its {}", nth(n + 1)), format!("the {}", nth(n + 1))),
    };
    match &**name {
        "short_read" => format!("{its} read returns {at_most}{bytes}"),
        "short_write" => format!("{its} write takes {at_most}{bytes}"),
        "would_block" => format!("{its} call blocks for {time}, without need"),
        "spurious_wake" => format!("{its} call that blocks is woken without need"),
        "interrupted" => format!("a signal interrupts {its} call"),
        "stall" => format!("after {its} call, nothing arrives for {time}"),
        "no_splice" => format!("{its} fill of a pipe is refused"),
        "send_buffer_grows" => format!("{its} write to a full buffer takes {at_most}{bytes} more"),
        "accept_aborted" => format!("{its} connection is reset in the backlog"),
        "zero_write" => format!("{its} write takes 0 bytes"),
        "reset" => format!("at {its} call, a middlebox resets the connection"),
        "timed_out" => format!("at {its} call, its kernel gives up the connection"),
        "accept_order" => format!("{its} accept takes number {choice} of the backlog"),
        "latency" => format!("a segment takes {time} at least"),
        "jitter" => format!("{the} segment to it takes {time} longer"),
        "segment_latency" => format!("{the} segment to it takes {time}"),
        "usual_latency" => format!("{the} segment to it takes {time}, or a multiple"),
        "latency_doubles" => format!("{the} chance to double a latency is taken"),
        "task" => format!("number {choice} of the woken tasks runs"),
        "alarms_first" => "of an event and an alarm, the alarm comes first".to_owned(),
        "drift" if *choice != Choice::Strikes => format!("the drift is {choice} − 10001 ppm"),
        "faults" | "harmful_faults" | "partition" | "unplug" | "slow_link" | "bandwidth"
        | "stop_host" | "freeze_clock" | "drift" | "kill" | "power_cut" => {
            format!("at {the} interval, it begins or ends")
        }
        "kind" => format!("{the} kind of disturbance is used"),
        "host" => format!("number {choice} of the hosts is disturbed"),
        "other_host" => format!("the host that is {choice} behind it is at the other end"),
        "direction" => "the upload has the bandwidth, not the download".to_owned(),
        "rate" => format!("the bandwidth is about {choice} bytes a second"),
        "plan" => format!("the plan of faults has seed {choice}"),
        "stop" => format!("the host is stopped for {time}"),
        "freeze" => format!("the clock is frozen for {time}"),
        "skip_act" => format!("it leaves out {its} act"),
        "send_only" => format!("{its} act sends {bytes}"),
        _ => String::new(),
    }
}

fn nth(number: u64) -> String {
    let suffix = match (number % 10, number % 100) {
        (1, tail) if tail != 11 => "st",
        (2, tail) if tail != 12 => "nd",
        (3, tail) if tail != 13 => "rd",
        _ => "th",
    };
    format!("{number}{suffix}")
}

/// The most peers whose acts are shown.
const MAX_PEERS: usize = 8;
/// The most acts of a peer that are shown.
const MAX_ACTS: usize = 12;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use wirestate_core::{echo, runtime::Runtime as _, serve};

    use super::*;
    use crate::sim::{Act, Decisions, Disturbance, Faults, Latency, Settings, Swarm, World, act};

    #[test]
    fn each_decision_has_a_meaning() {
        let range = || Duration::from_millis(1)..=Duration::from_millis(9);
        let mut seen = BTreeSet::new();
        for (seed, latency) in [
            Latency::Uniform(range()),
            Latency::PerConnection(range()),
            Latency::LongTailed { usual: range(), doubles: 300, max: Duration::from_secs(1) },
        ]
        .into_iter()
        .cycle()
        .take(9)
        .enumerate()
        {
            let ((), decisions) = Decisions::record(|| disturbed(seed as u64, latency));
            for one in decisions.iter() {
                assert_ne!(meaning(&one), "", "{one}");
                seen.insert(one.name);
            }
        }
        let names = "accept_order jitter segment_latency usual_latency latency_doubles kind host \
                     other_host direction rate plan stop freeze drift slow_link";
        let unseen: Vec<_> = names.split(' ').filter(|name| !seen.contains(*name)).collect();
        assert!(unseen.is_empty(), "{unseen:?} of {seen:?}");
    }

    /// Clients of an echo server, and all kinds of disturbances.
    fn disturbed(seed: u64, latency: Latency) {
        let world = World::with(seed, Settings { latency, ..Settings::default() });
        let [server, client, idle] = ["server", "client", "idle"].map(|name| world.host(name));
        server.run_on_start(|server| {
            let listener = server.listen("server:7").unwrap();
            let serving = serve::Server::new(server.clone(), listener);
            let echo = echo::Server::default();
            server.run(serving.serve(move |_, now| echo.machine(now)));
        });
        server.set_faults(Faults { accept_order: 500, ..Faults::harmless(seed) });
        server.stop_for(Duration::from_millis(50));
        for _ in 0..9 {
            let runtime = client.clone();
            client.run(async move {
                let Ok(socket) = runtime.connect("server:7").await else { return };
                let acts = vec![Act::Send("hello".into()), Act::Finish, Act::ReceiveAll];
                act(runtime, socket, acts).await;
            });
        }
        Swarm::new(&world, &[&server, &client, &idle], &Disturbance::ALL)
            .disturb(Duration::from_secs(30))
            .unwrap();
    }

    #[test]
    fn a_value_that_repeats_is_a_limit() {
        let text = "client/0 Server: short_read * = 9\nclient/0 Server: short_read 4 = 9";
        let decisions: Decisions = text.parse().unwrap();
        let meanings: Vec<_> = decisions.iter().map(|one| meaning(&one)).collect();
        assert_eq!(meanings, ["each read returns at most 9 bytes", "its 5th read returns 9 bytes"]);
    }
}
