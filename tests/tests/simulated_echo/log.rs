//! A log in memory.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, Once},
};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
    subscriber::{Interest, set_global_default},
};

/// The fields of all log lines down to a level.
#[derive(Clone)]
pub(crate) struct Log {
    level: LevelFilter,
    lines: Arc<Mutex<Vec<BTreeMap<&'static str, String>>>>,
}

impl Log {
    pub(crate) fn new(level: impl Into<LevelFilter>) -> Self {
        Self { level: level.into(), lines: Arc::default() }
    }

    /// How many lines log that a connection ended by `reason`, and the sum of their field
    /// `suppressed`.
    pub(crate) fn ends(&self, reason: &str) -> (u64, u64) {
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
