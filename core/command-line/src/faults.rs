//! The faults of a proxy: their flags, and the file of the plan.

use core::{ops::RangeInclusive, time::Duration};
use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    path::PathBuf,
};

use clap::{Args, ValueHint};
use wirestate_core::faults::{Faults, Injector, Plan, Slice, Sometimes, Stall};

use crate::{
    CommandError,
    server::ReloadFiles,
    toml_file::{self, Mistake, Value, shown},
    values,
};

/// The flags of injected faults.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Faults")]
pub(super) struct FaultFlags {
    /// Inject faults into the connections, to test the programs on both sides: a file with a plan
    /// in TOML, which SIGHUP reads again for new connections; or the plan itself, which contains
    /// `=`, for example 'both.delay = "20ms"'
    #[arg(long, value_name = "PLAN", env = "WIRESTATE_FAULTS", value_parser = source,
          value_hint = ValueHint::FilePath)]
    faults: Option<PlanSource>,
    /// The seed of the faults: the same seed, plan and number of a connection give the same faults
    /// [default: a random one, which is logged]
    #[arg(long, value_name = "N", env = "WIRESTATE_FAULTS_SEED", value_parser = values::number,
          requires = "faults")]
    seed: Option<u64>,
}

/// Where a plan is.
#[derive(Clone, Debug)]
enum PlanSource {
    File(PathBuf),
    /// The plan itself.
    Text(String),
}

fn source(text: &str) -> Result<PlanSource, String> {
    if text.is_empty() {
        return Err("expected a file, or a plan as in 'both.delay = \"20ms\"'".into());
    }
    if !text.contains('=') {
        return Ok(PlanSource::File(text.into()));
    }
    parse(text).map_err(|mistake| mistake.message)?;
    Ok(PlanSource::Text(text.into()))
}

impl PlanSource {
    fn load(&self) -> Result<Plan, CommandError> {
        match self {
            Self::File(path) => toml_file::load(path, parse),
            Self::Text(text) => Ok(parse(text).unwrap_or_default()), // `source` has parsed it
        }
    }
}

/// A plan that was loaded.
#[derive(Clone, Debug)]
pub(super) struct LoadedPlan {
    source: PlanSource,
    pub(super) injector: Injector,
}

impl FaultFlags {
    /// Loads the plan; `None` if there is none.
    ///
    /// # Errors
    /// The file cannot be read, or has a mistake.
    pub(super) fn load(&self) -> Result<Option<LoadedPlan>, CommandError> {
        let Some(source) = self.faults.clone() else { return Ok(None) };
        // Half of the bits are enough, and easier to type.
        let draw = || RandomState::new().build_hasher().finish() >> 32;
        let injector = Injector::new(source.load()?, self.seed.unwrap_or_else(draw));
        let injector = injector.map_err(CommandError::Config)?;
        Ok(Some(LoadedPlan { source, injector }))
    }
}

impl LoadedPlan {
    /// The file, or the plan itself, for the log.
    pub(super) fn shown(&self) -> String {
        match &self.source {
            PlanSource::File(path) => path.display().to_string(),
            PlanSource::Text(text) => text.clone(),
        }
    }
}

impl ReloadFiles for LoadedPlan {
    fn description(&self) -> &'static str {
        "plan of faults"
    }

    fn read(&self) -> Result<Box<dyn FnOnce() + Send>, CommandError> {
        let (plan, injector) = (self.source.load()?, self.injector.clone());
        plan.check().map_err(CommandError::Config)?;
        Ok(Box::new(move || injector.set_plan(plan).expect("the plan was checked")))
    }
}

fn parse(text: &str) -> Result<Plan, Mistake> {
    let document = toml_file::document(text)?.into_inner();
    let mut plan = Plan::default();
    // The faults of one direction replace those of both.
    for direction in [BOTH, TO_UPSTREAM, TO_CLIENT] {
        let Some(table) = document.get(direction) else { continue };
        if direction != TO_CLIENT {
            read_faults(direction, table, &mut plan.to_upstream)?;
        }
        if direction != TO_UPSTREAM {
            read_faults(direction, table, &mut plan.to_client)?;
        }
    }
    for (key, _) in &document {
        if ![BOTH, TO_UPSTREAM, TO_CLIENT].contains(&&**key.get_ref()) {
            let message = format!(
                "unknown key `{}`; expected {BOTH}, {TO_UPSTREAM} or {TO_CLIENT}",
                key.get_ref()
            );
            return Err(Mistake::new(key.span(), message));
        }
    }
    Ok(plan)
}

/// Reads the faults of one direction from a table.
fn read_faults(direction: &str, table: &Value<'_>, faults: &mut Faults) -> Result<(), Mistake> {
    let Some(keys) = table.get_ref().as_table() else {
        let example = format!("as in [{direction}] and delay = \"20ms\"");
        let message = format!(
            "invalid value '{}' for '{direction}': expected a table of faults, {example}",
            shown(table.get_ref())
        );
        return Err(Mistake::new(table.span(), message));
    };
    for (key, value) in keys {
        let name = key.get_ref();
        let fault = |keys| Fault::new(format!("{direction}.{name}"), value, keys);
        let after = || {
            let fault = fault(&["after"])?;
            fault.with_chance(fault.get("after", Some(0..=0), positions)?)
        };
        match &**name {
            "slice" => {
                let fault = fault(&["bytes", "pause"])?;
                let bytes = fault.get("bytes", None, sizes)?;
                let pause = Some(DEFAULT_PAUSE..=DEFAULT_PAUSE);
                let pause = fault.get("pause", pause, times)?;
                faults.slice = Some(fault.with_chance(Slice { bytes, pause })?);
            }
            "delay" | "jitter" => {
                let fault = fault(&["time"])?;
                let times = fault.with_chance(fault.get("time", None, times)?)?;
                let of = if **name == *"delay" { &mut faults.delay } else { &mut faults.jitter };
                *of = Some(times);
            }
            "rate" => {
                let fault = fault(&["per-second"])?;
                faults.rate = Some(fault.with_chance(fault.get("per-second", None, sizes)?)?);
            }
            "stall" => {
                let fault = fault(&["time", "after"])?;
                let time = fault.get("time", None, times)?;
                let after = fault.get("after", Some(0..=0), positions)?;
                faults.stall = Some(fault.with_chance(Stall { after, time })?);
            }
            "half-close" => faults.half_close = Some(after()?),
            "reset" => faults.reset = Some(after()?),
            "black-hole" => faults.black_hole = Some(after()?),
            _ => {
                let message = format!(
                    "unknown fault `{direction}.{name}`; expected slice, delay, jitter, rate, \
                     stall, half-close, reset or black-hole"
                );
                return Err(Mistake::new(key.span(), message));
            }
        }
    }
    Ok(())
}

/// The keys of one fault. A value that is no table is the one of the first key.
struct Fault<'a, 'i> {
    /// The direction and the name.
    path: String,
    value: &'a Value<'i>,
    first: &'static str,
}

impl<'a, 'i> Fault<'a, 'i> {
    fn new(path: String, value: &'a Value<'i>, keys: &[&'static str]) -> Result<Self, Mistake> {
        for (key, _) in value.get_ref().as_table().into_iter().flatten() {
            let name = &**key.get_ref();
            if name != CHANCE && !keys.contains(&name) {
                let expected = keys.join(", ");
                let message =
                    format!("unknown key `{path}.{name}`; expected {expected} or {CHANCE}");
                return Err(Mistake::new(key.span(), message));
            }
        }
        Ok(Self { path, value, first: keys[0] })
    }

    fn value(&self, key: &str) -> Option<&'a Value<'i>> {
        match self.value.get_ref().as_table() {
            Some(table) => table.get(key),
            None => Some(self.value).filter(|_| key == self.first),
        }
    }

    /// The value of a key, or its default.
    fn get<T>(
        &self,
        key: &str,
        default: Option<T>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Mistake> {
        let Some(value) = self.value(key) else {
            let message = format!("the key `{}.{key}` is missing", self.path);
            return default.ok_or_else(|| Mistake::new(self.value.span(), message));
        };
        let float = value.get_ref().as_float().map(|number| number.as_str().replace('_', ""));
        let word = toml_file::word(value.get_ref()).or(float);
        parse(&word.unwrap_or_default()).map_err(|expected| {
            let (shown, path) = (shown(value.get_ref()), &self.path);
            let message = format!("invalid value '{shown}' for '{path}.{key}': {expected}");
            Mistake::new(value.span(), message)
        })
    }

    fn with_chance<T>(&self, value: T) -> Result<Sometimes<T>, Mistake> {
        Ok(Sometimes { chance: self.get(CHANCE, Some(1000), chance)?, value })
    }
}

/// A chance in thousandths.
fn chance(text: &str) -> Result<u16, String> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let decimals = decimals.trim_end_matches('0');
    let is_decimal = whole.bytes().chain(decimals.bytes()).all(|byte| byte.is_ascii_digit());
    let thousandths = Some(format!("{whole}{decimals:0<3}"))
        .filter(|_| is_decimal && decimals.len() <= 3)
        .and_then(|digits| digits.parse().ok());
    let thousandths = thousandths.filter(|thousandths| (1..=1000).contains(thousandths));
    thousandths.ok_or_else(|| "expected a number from 0.001 to 1, with 3 decimals at most".into())
}

/// A value, or a range of them: `FIRST..LAST`.
fn range<T: Clone + PartialOrd>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<RangeInclusive<T>, String> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    let (first, last) = (parse(first.trim()), parse(last.trim()));
    let range = first.and_then(|first| Ok(first..=last?));
    let range = range.map_err(|error| format!("{error}; or a range, FIRST..LAST"))?;
    if range.is_empty() { Err("expected the lower end first".into()) } else { Ok(range) }
}

fn times(text: &str) -> Result<RangeInclusive<Duration>, String> {
    range(text, values::time)
}

/// Numbers of bytes, at least 1.
fn sizes(text: &str) -> Result<RangeInclusive<u64>, String> {
    range(text, |text| values::bytes(text).map(|bytes| bytes as u64))
}

/// Numbers of bytes.
fn positions(text: &str) -> Result<RangeInclusive<u64>, String> {
    let bytes = |text: &str| values::bytes_within(0..=isize::MAX as usize, text);
    range(text, |text| bytes(text).map(|bytes| bytes as u64))
}

const BOTH: &str = "both";
const TO_UPSTREAM: &str = "to-upstream";
const TO_CLIENT: &str = "to-client";
const CHANCE: &str = "chance";
/// The pause after a piece, so that the receiver reads it alone.
const DEFAULT_PAUSE: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_plan_has_faults_with_chances_and_ranges() {
        let text = r#"
            [both]
            slice = "1..16"
            delay = { time = "20ms..50ms", chance = 0.25 }
            rate = "64KiB"

            [to-client]
            delay = "1s"
            jitter = "0..5ms"
            stall = { after = "0..4KiB", time = "2s", chance = 1 }
            reset = { after = 100, chance = 0.125 }
            half-close = 7
            black-hole = { chance = "0.001" }
        "#;
        let plan = parse(text).unwrap_or_else(|mistake| panic!("{}", mistake.message));
        let slice = Slice { bytes: 1..=16, pause: ms(1)..=ms(1) };
        let to_upstream = Faults::default()
            .with_slice(Sometimes::always(slice))
            .with_delay(Sometimes { chance: 250, value: ms(20)..=ms(50) })
            .with_rate(Sometimes::always(65_536..=65_536));
        let stall = Stall { after: 0..=4096, time: ms(2000)..=ms(2000) };
        let to_client = to_upstream
            .clone()
            .with_delay(Sometimes::always(ms(1000)..=ms(1000)))
            .with_jitter(Sometimes::always(ms(0)..=ms(5)))
            .with_stall(Sometimes::always(stall))
            .with_reset(Sometimes { chance: 125, value: 100..=100 })
            .with_half_close(Sometimes::always(7..=7))
            .with_black_hole(Sometimes { chance: 1, value: 0..=0 });
        assert_eq!(plan, Plan::default().with_to_upstream(to_upstream).with_to_client(to_client));
        assert_eq!(plan.check(), Ok(()));
    }

    #[test]
    fn a_mistake_names_the_key_the_value_and_what_is_expected() {
        for (text, expected) in [
            ("to-server.delay = '1s'", "unknown key `to-server`; expected both, to-upstream or"),
            ("both = 3", "invalid value '3' for 'both': expected a table of faults, as in [both]"),
            ("both.slize = 3", "unknown fault `both.slize`; expected slice, delay, jitter, rate"),
            (
                "both.slice = 0",
                "invalid value '0' for 'both.slice.bytes': expected at least 1B; or a range, \
                 FIRST..LAST",
            ),
            (
                "both.delay = 5",
                "invalid value '5' for 'both.delay.time': expected a time with its unit, as in \
                 500ms, 5s or 1m 30s; or a range, FIRST..LAST",
            ),
            ("both.delay = '9s..1s'", "'9s..1s' for 'both.delay.time': expected the lower end"),
            ("both.rate = []", "invalid value '[…]' for 'both.rate.per-second': expected a number"),
            ("to-client.stall = {}", "the key `to-client.stall.time` is missing"),
            (
                "to-client.reset = { at = 3 }",
                "unknown key `to-client.reset.at`; expected after or chance",
            ),
            ("to-upstream.reset.chance = 0", "expected a number from 0.001 to 1, with 3 decimals"),
            ("to-upstream.reset.chance = 1.001", "'1.001' for 'to-upstream.reset.chance'"),
            ("to-upstream.reset.chance = 0.0005", "expected a number from 0.001 to 1"),
            ("to-upstream.reset.chance = -0.1", "expected a number from 0.001 to 1"),
            ("to-upstream.reset.chance = 1e-1", "expected a number from 0.001 to 1"),
            ("to-upstream.reset.chance = nan", "expected a number from 0.001 to 1"),
            ("both = ", "string values must be quoted"),
        ] {
            let mistake = parse(text).err().unwrap_or_else(|| panic!("accepted: {text}"));
            assert!(mistake.message.contains(expected), "{text}: {}", mistake.message);
            assert_eq!(source(text).unwrap_err(), mistake.message);
        }
    }
}
