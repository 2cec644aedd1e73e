//! Timelines to look at.

use std::time::Duration;

use wirestate_core::{echo, runtime::Runtime as _, serve};
use wirestate_testkit::sim::{Act, Faults, World, act};
use wirestate_timeline::{Event, Payload, Timeline};

/// A simulated echo server whose clients have harmful faults.
pub(crate) fn simulated() -> Timeline {
    let seed = 7;
    let world = World::new(seed);
    let server = world.host("server");
    let listener = server.listen("server:7").unwrap();
    let echo = echo::Server::new(echo::Config::default()).unwrap();
    let serving = serve::Server::new(server.clone(), listener);
    server.run_named("accept loop", serving.serve(move |_, now| echo.machine(now)));
    for number in 0..4 {
        let client = world.host(&format!("client-{number}"));
        client.set_faults(Faults { short_read: 300, ..Faults::harmful(seed + number) });
        let runtime = client.clone();
        client.run(async move {
            for _ in 0..3 {
                let Ok(socket) = runtime.connect("server:7").await else { continue };
                let mut acts = Vec::new();
                for line in 0..4 {
                    acts.push(Act::Send(format!("line {line} of {number}\r\n").into()));
                    acts.push(Act::ReceiveLines(1));
                }
                acts.extend([Act::Finish, Act::ReceiveAll]);
                act(runtime.clone(), socket, acts).await;
            }
        });
    }
    let _ = world.run_for(Duration::from_secs(400));
    let mut timeline = world.trace().timeline("an echo server with faulty clients");
    timeline.add_fact("seed", seed.to_string());
    timeline
}

/// One connection with every kind of event.
pub(crate) fn every_kind() -> Timeline {
    let mut timeline = Timeline::new("every kind of event");
    timeline.add_fact("machine", "message server");
    let [client, server] = ["client", "server"].map(|end| timeline.add_lane("client/0", end));
    timeline.connect(client, server);
    let refused = timeline.add_lane("client/1", "client");
    let host = timeline.add_lane("server", "host");
    let at = |micros| Duration::from_secs(1_000_000) + Duration::from_micros(micros);
    let payload = |text: &str| Payload::new(text.as_bytes());
    let mut push = |time, lane, event| timeline.push(at(time), lane, event);
    push(0, client, Event::Dialled);
    push(40, refused, Event::Dialled);
    push(120, server, Event::Accepted);
    push(121, server, Event::State("reading a header".into()));
    push(122, server, Event::Deadline(Some(at(900))));
    push(180, refused, Event::Refused);
    push(240, client, Event::Connected);
    push(250, client, Event::Sent(payload("{\"action\":\"search\",\"value\":\"ring\"}\r\n")));
    push(300, host, Event::Note("the clock drifts by 12 ppm".into()));
    push(370, server, Event::Received(payload("{\"action\":\"sea")));
    push(420, server, Event::Fault("stall".into()));
    push(510, server, Event::Received(payload("rch\",\"value\":\"ring\"}\r\n")));
    push(511, server, Event::State("answering".into()));
    push(512, server, Event::Deadline(None));
    push(520, server, Event::Shared);
    push(560, server, Event::Sent(payload("In the caves beneath the Misty Mountains. 💍")));
    push(690, client, Event::Received(payload("In the caves beneath the Misty Mountains. 💍")));
    push(700, client, Event::Finished);
    push(780, server, Event::ShutDown);
    push(790, server, Event::Eof);
    push(800, server, Event::State("closing".into()));
    push(801, server, Event::Deadline(Some(at(1000))));
    push(1000, server, Event::Timeout);
    push(1001, server, Event::Reason("flush_timeout".into()));
    push(1002, server, Event::Reset);
    push(1003, server, Event::Closed);
    push(1100, client, Event::Error("receiving: connection reset by peer".into()));
    push(1110, client, Event::Closed);
    timeline
}

/// One lane, with many events at a few moments, as of a recorded session.
pub(crate) fn session() -> Timeline {
    let mut timeline = Timeline::new("message 1 of app-server");
    timeline.add_fact("ended", "content_too_long: a content of 9999999999 bytes");
    let client = timeline.add_lane("message 1", "client");
    let at = Duration::from_micros;
    let mut push = |time, event| timeline.push(at(time), client, event);
    let payload = |text: &str| Payload::new(text.as_bytes());
    push(0, Event::Accepted);
    push(0, Event::State("open".into()));
    push(0, Event::Deadline(Some(at(5_000_000))));
    push(400, Event::Received(payload("\0g{\"byteorder\": \"lit")));
    push(60_000, Event::Received(payload("tle\", \"content-type\": \"text/json\"}")));
    push(60_000, Event::Deadline(Some(at(1_300_000))));
    push(60_000, Event::Sent(payload("\0g{\"byteorder\": \"little\"}")));
    push(60_000, Event::State("idle".into()));
    push(110_000, Event::Received(payload("\0o{\"byteorder\": \"little\"}")));
    push(110_000, Event::State("closing".into()));
    push(110_000, Event::Sent(payload("\0g{\"result\": \"Error\"}")));
    push(110_000, Event::Finished);
    push(110_000, Event::State("lingering".into()));
    push(110_000, Event::Deadline(Some(at(2_000_000))));
    push(110_000, Event::Note("the client is refused".into()));
    push(160_000, Event::Fault("reset by the plan of faults".into()));
    push(160_000, Event::Eof);
    push(160_000, Event::State("ended".into()));
    push(160_000, Event::Deadline(None));
    push(160_000, Event::Reason("content_too_long: a content of 9999999999 bytes".into()));
    timeline
}

/// Texts and bytes that would leave their element if they were not escaped.
pub(crate) fn hostile() -> Timeline {
    let mut timeline = Timeline::new(HOSTILE);
    timeline.add_fact(HOSTILE, HOSTILE);
    let lane = timeline.add_lane(HOSTILE, HOSTILE);
    let at = Duration::from_nanos;
    timeline.push(at(1), lane, Event::Sent(Payload::new(HOSTILE.as_bytes())));
    timeline.push(at(2), lane, Event::Note(HOSTILE.into()));
    let all: Vec<u8> = (0..=255).collect();
    timeline.push(at(3), lane, Event::Received(Payload::cut(1 << 53, &all).with_digest(u64::MAX)));
    timeline.push(Duration::MAX, lane, Event::Deadline(Some(Duration::MAX)));
    timeline
}

pub(crate) const HOSTILE: &str = "</script><script>document.title = 'broken'</script>\
    <img src=x onerror=\"document.title='broken'\"><!--<script>&lt;'`${1}\u{2028}\\";

/// 10 connections, and `count` events.
pub(crate) fn many(count: u64) -> Timeline {
    let mut timeline = Timeline::new("many events");
    let ends: Vec<_> = (0..10)
        .map(|number| {
            let name = format!("client-{number}/0");
            let [client, server] = ["client", "server"].map(|end| timeline.add_lane(&name, end));
            timeline.connect(client, server);
            [client, server]
        })
        .collect();
    let payload = |number: u64| Payload::new(format!("message {number:08}\r\n").as_bytes());
    for number in 0..count {
        let [client, server] = ends[usize::try_from(number / 4 * 7 % 10).unwrap()];
        let at = Duration::from_nanos(number * 31_000 + number * number % 7919);
        let (lane, event) = match number % 4 {
            0 => (client, Event::Sent(payload(number / 4))),
            1 => (server, Event::Received(payload(number / 4))),
            2 if number % 997 == 2 => (server, Event::Fault("reset".into())),
            3 if number % 997 == 3 => (client, Event::Error("reset".into())),
            2 => (server, Event::Sent(payload(number / 4))),
            _ => (client, Event::Received(payload(number / 4))),
        };
        timeline.push(at, lane, event);
    }
    timeline
}

pub(crate) fn all() -> [(&'static str, Timeline); 7] {
    [
        ("simulated", simulated()),
        ("every_kind", every_kind()),
        ("session", session()),
        ("hostile", hostile()),
        ("empty", Timeline::new("empty")),
        ("few", many(1_000)),
        ("many", many(100_000)),
    ]
}

pub(crate) fn page(timeline: &Timeline) -> String {
    let mut page = Vec::new();
    timeline.write_html(&mut page).unwrap();
    String::from_utf8(page).unwrap()
}
