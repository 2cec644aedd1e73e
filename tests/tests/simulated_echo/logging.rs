//! The log lines of connections that end.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, Once},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
    subscriber::{Interest, set_global_default, with_default},
};
use wirestate_testkit::sim::{Act, Host};

use crate::scene::{Scene, peer, seconds};

/// The fields of all log lines down to a level.
#[derive(Clone)]
struct Log {
    level: LevelFilter,
    lines: Arc<Mutex<Vec<BTreeMap<&'static str, String>>>>,
}

impl Log {
    fn new(level: impl Into<LevelFilter>) -> Self {
        Self { level: level.into(), lines: Arc::default() }
    }

    /// How many lines log that a connection ended by `reason`, and the sum of their field
    /// `suppressed`.
    fn ends(&self, reason: &str) -> (u64, u64) {
        let lines = self.lines.lock().unwrap();
        let ends = lines.iter().filter(|line| line.get("reason").is_some_and(|it| it == reason));
        let suppressed = |line: &BTreeMap<_, String>| line.get("suppressed")?.parse::<u64>().ok();
        (
            ends.clone().filter(|line| line.contains_key("id")).count() as u64,
            ends.filter_map(suppressed).sum(),
        )
    }
}

/// A subscriber of all threads, which logs nothing.
///
/// Without it, a callsite that another test reaches while a [`Log`] is made may be off for good.
pub(crate) fn keep_callsites_open() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| set_global_default(Log::new(LevelFilter::OFF)).unwrap());
}

impl Subscriber for Log {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn event(&self, event: &Event<'_>) {
        struct Fields(BTreeMap<&'static str, String>);
        impl Visit for Fields {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                self.0.insert(field.name(), format!("{value:?}"));
            }

            fn record_str(&mut self, field: &Field, value: &str) {
                self.0.insert(field.name(), value.to_owned());
            }
        }
        let mut fields = Fields(BTreeMap::new());
        event.record(&mut fields);
        self.lines.lock().unwrap().push(fields.0);
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

/// Opens a connection, sends `sends`, and resets the connection.
fn reset_one(scene: &Scene, client: &Host, sends: &'static str) {
    let mut acts = vec![Act::Wait(seconds(1) / 100), Act::Reset];
    if !sends.is_empty() {
        acts.insert(0, Act::Send(sends.into()));
    }
    scene.world.run_until(&peer(client, acts)).unwrap();
}

#[test]
fn resets_in_quick_succession_are_all_counted_and_not_all_logged() {
    for level in [Level::INFO, Level::DEBUG] {
        let log = Log::new(level);
        with_default(log.clone(), || {
            let scene = Scene::new(1);
            let client = scene.world.host("client");
            let started = scene.world.now();
            for _ in 0..500 {
                reset_one(&scene, &client, "x");
            }
            let elapsed = scene.world.now().since(started).as_secs() + 1;
            scene.end();
            assert_eq!(scene.ended("reset"), 500);
            let (lines, suppressed) = log.ends("reset");
            if level == Level::DEBUG {
                assert_eq!((lines, suppressed), (500, 0));
            } else {
                assert_eq!(lines + suppressed, 500);
                assert!((50..=50 + 10 * elapsed).contains(&lines), "{lines} in {elapsed} s");
            }
        });
    }
}

#[test]
fn a_connection_without_a_byte_is_a_health_check_and_not_logged() {
    let log = Log::new(Level::INFO);
    with_default(log.clone(), || {
        let scene = Scene::new(2);
        let client = scene.world.host("client");
        for _ in 0..5 {
            reset_one(&scene, &client, "");
            let acts = vec![Act::Finish, Act::ReceiveAll];
            scene.world.run_until(&peer(&client, acts)).unwrap();
        }
        reset_one(&scene, &client, "x");
        scene.end();
        assert_eq!((scene.ended("health_check"), scene.ended("reset")), (10, 1));
        assert_eq!((log.ends("health_check").0, log.ends("reset").0), (0, 1));
    });
}
