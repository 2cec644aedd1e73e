//! The settings of servers and clients.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::c_char,
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use wirestate_core::{
    Linger, echo, fanout,
    message::{self, FrameLimits, FrameTimeouts},
};

use crate::{
    pointer,
    result::{ResultCode, numbered},
};

/// No deadline, and the value that switches a timeout off.
pub const NEVER: u64 = u64::MAX;

/// A setting. Sizes are in bytes, times in nanoseconds. `WIRESTATE_NEVER` switches a timeout off; 0
/// is refused.
///
/// Later versions may add settings, never change a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Setting {
    /// Echo, message, client: the size of a connection's receive buffer. Default: 64 KiB; client:
    /// 16 KiB.
    BufferSize = 1,
    /// Echo, message: how many unused buffers the server keeps. Default: 64.
    IdleBuffers = 2,
    /// Echo: ends a connection that moves no byte for this long; default: 300 s. Message: one
    /// without a request and without a pending reply; default: 60 s.
    IdleTimeout = 3,
    /// Echo, message, fan-out: how long a connection discards input after its FIN. Default: 2 s.
    LingerTime = 4,
    /// Echo, message, fan-out: how much input a connection discards after its FIN. Default: 16 MiB.
    LingerBytes = 5,
    /// Message, fan-out, client: resets a connection whose peer acknowledges no byte for this long
    /// while output is pending. Default: 10 s.
    WriteTimeout = 6,
    /// Echo with a prefix: the most that one read receives. Default: 1,024.
    PrefixChunk = 10,
    /// Message, client: the longest header. At most 65,535. Default: 4 KiB.
    MaxHeader = 20,
    /// Message, client: the longest content. Default: 1 MiB.
    MaxContent = 21,
    /// Message, client: the time for a header to arrive, from its first byte. Default: 5 s.
    HeaderTimeout = 22,
    /// Message, client: the time for a whole message to arrive, from its first byte. Default: 30 s.
    ContentTimeout = 23,
    /// Message, client: a message that arrives at this rate, in bytes per second, may take longer.
    /// Default: 1,024.
    MinRate = 24,
    /// Message, client: the most requests of one connection that wait for replies. Default: 32.
    MaxInFlight = 25,
    /// Message: how long the reply to a request may take. Default: 60 s.
    ServiceTimeout = 26,
    /// Message: 1 closes a connection after its first reply. Default: 0.
    OneShot = 27,
    /// Message: the most bytes that the contents of 4 KiB or more of all connections take.
    /// Default: 256 MiB.
    MaxMemory = 28,
    /// Client: the longest wait for the first byte of a reply. Default: 30 s.
    ReplyTimeout = 29,
    /// Fan-out: a `wirestate_framing`. Default: fixed.
    Framing = 40,
    /// Fan-out: the size of a message; with delimiters or length prefixes, of the longest one.
    /// Default: 1,024.
    MessageSize = 41,
    /// Fan-out with delimiters: the last byte of each message. Default: 10, a line feed.
    Delimiter = 42,
    /// Fan-out: how many bytes of the newest messages are kept for subscribers that are behind.
    /// Default: 16 MiB.
    Window = 43,
    /// Fan-out: a `wirestate_lag_policy`. Default: disconnect.
    OnLag = 44,
    /// Fan-out: how long the upstream may be paused for slow subscribers while others wait, in any
    /// ten times this. 0: never. Default: 1 s.
    LagWait = 45,
    /// Fan-out: resets the connection to an upstream that sends no byte for this long. Default:
    /// off.
    UpstreamIdleTimeout = 46,
    /// Fan-out: how many of the last messages a new subscriber gets first. Default: 0.
    Replay = 47,
}

/// Where one message of a fan-out ends and the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Framing {
    /// Every message has the same size.
    Fixed = 0,
    /// A message ends with a delimiter, which is part of it.
    Delimited = 1,
    /// A message begins with its length in four bytes, big-endian, without these four bytes.
    LengthPrefixed = 2,
    /// There are no messages: bytes are passed on as they arrive.
    None = 3,
}

/// What happens to a subscriber that falls out of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum LagPolicy {
    /// It is reset.
    Disconnect = 0,
    /// It skips messages.
    Skip = 1,
    /// The upstream is paused, without limit.
    Block = 2,
}

/// The settings of a server or a client. What is not set has its default.
#[derive(Debug, Default)]
pub struct Config {
    values: BTreeMap<Setting, u64>,
    prefix: Option<Vec<u8>>,
}

impl Setting {
    /// The name in `snake_case`, as in the errors of the core.
    fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }
}

numbered! {
    Setting:
    BufferSize, IdleBuffers, IdleTimeout, LingerTime, LingerBytes, WriteTimeout,
    PrefixChunk, MaxHeader, MaxContent, HeaderTimeout, ContentTimeout, MinRate, MaxInFlight,
    ServiceTimeout, OneShot, MaxMemory, ReplyTimeout, Framing, MessageSize, Delimiter,
    Window, OnLag, LagWait, UpstreamIdleTimeout, Replay
}
numbered!(Framing: Fixed, Delimited, LengthPrefixed, None);
numbered!(LagPolicy: Disconnect, Skip, Block);

/// Reads settings into the configuration of one kind of machine.
struct Reader<'a> {
    config: &'a Config,
    kind: &'static str,
    known: BTreeSet<Setting>,
}

impl<'a> Reader<'a> {
    fn new(config: &'a Config, kind: &'static str) -> Self {
        Self { config, kind, known: BTreeSet::new() }
    }

    fn get(&mut self, setting: Setting) -> Option<u64> {
        self.known.insert(setting);
        self.config.values.get(&setting).copied()
    }

    /// Sets `field` if there is a setting, and it is at most what the field can hold.
    fn number<T: TryFrom<u64>>(&mut self, setting: Setting, field: &mut T) -> Result<(), String> {
        if let Some(value) = self.get(setting) {
            let too_large = |_| format!("{} is {value}, which is too large", setting.name());
            *field = value.try_into().map_err(too_large)?;
        }
        Ok(())
    }

    fn size(&mut self, setting: Setting, field: &mut NonZeroUsize) -> Result<(), String> {
        let mut size = field.get();
        self.number(setting, &mut size)?;
        *field = size.try_into().map_err(|_| format!("{} must be non-zero", setting.name()))?;
        Ok(())
    }

    /// Zero is refused by the core, with the name of the field.
    fn timeout(&mut self, setting: Setting, field: &mut Option<Duration>) {
        if let Some(nanos) = self.get(setting) {
            *field = (nanos != NEVER).then(|| Duration::from_nanos(nanos));
        }
    }

    fn linger(&mut self, linger: &mut Linger) -> Result<(), String> {
        if let Some(nanos) = self.get(Setting::LingerTime) {
            linger.time = Duration::from_nanos(nanos);
        }
        self.number(Setting::LingerBytes, &mut linger.bytes)
    }

    fn frames(
        &mut self,
        limits: &mut FrameLimits,
        timeouts: &mut FrameTimeouts,
    ) -> Result<(), String> {
        self.number(Setting::MaxHeader, &mut limits.max_header)?;
        self.number(Setting::MaxContent, &mut limits.max_content)?;
        self.timeout(Setting::HeaderTimeout, &mut timeouts.header);
        self.timeout(Setting::ContentTimeout, &mut timeouts.content);
        let mut rate = timeouts.min_rate.get();
        self.number(Setting::MinRate, &mut rate)?;
        timeouts.min_rate =
            NonZeroU32::new(rate).ok_or_else(|| "min_rate must be non-zero".to_owned())?;
        Ok(())
    }

    /// Checks that the machine knows all settings.
    fn finish(self, knows_prefix: bool) -> Result<(), String> {
        let Self { config, kind, known } = self;
        if let Some(unknown) = config.values.keys().find(|setting| !known.contains(setting)) {
            return Err(format!("{} is not a setting of {kind}", unknown.name()));
        }
        if config.prefix.is_some() && !knows_prefix {
            return Err(format!("a prefix is not a setting of {kind}"));
        }
        Ok(())
    }
}

impl Config {
    pub(crate) fn echo(&self) -> Result<echo::Config, String> {
        let (mut reader, mut config) =
            (Reader::new(self, "an echo server"), echo::Config::default());
        reader.size(Setting::BufferSize, &mut config.buffer)?;
        reader.number(Setting::IdleBuffers, &mut config.idle_buffers)?;
        reader.timeout(Setting::IdleTimeout, &mut config.idle_timeout);
        reader.linger(&mut config.linger)?;
        let mut chunk = PREFIX_CHUNK;
        reader.size(Setting::PrefixChunk, &mut chunk)?;
        let prefix = |text: &Vec<u8>| echo::Prefix { text: text.clone().into(), chunk };
        config.prefix = self.prefix.as_ref().map(prefix);
        reader.finish(true)?;
        Ok(config)
    }

    pub(crate) fn message(&self) -> Result<message::Config, String> {
        let mut reader = Reader::new(self, "a message server");
        let mut config = message::Config::default();
        reader.size(Setting::BufferSize, &mut config.buffer)?;
        reader.number(Setting::IdleBuffers, &mut config.idle_buffers)?;
        reader.timeout(Setting::IdleTimeout, &mut config.idle_timeout);
        reader.timeout(Setting::WriteTimeout, &mut config.write_timeout);
        reader.timeout(Setting::ServiceTimeout, &mut config.service_timeout);
        reader.linger(&mut config.linger)?;
        reader.frames(&mut config.frame_limits, &mut config.frame_timeouts)?;
        reader.size(Setting::MaxInFlight, &mut config.max_in_flight)?;
        config.one_shot = reader.get(Setting::OneShot).is_some_and(|value| value != 0);
        reader.number(Setting::MaxMemory, &mut config.max_memory)?;
        reader.finish(false)?;
        Ok(config)
    }

    pub(crate) fn client(&self) -> Result<message::ClientConfig, String> {
        let mut reader = Reader::new(self, "a message client");
        let mut config = message::ClientConfig::default();
        reader.size(Setting::BufferSize, &mut config.buffer)?;
        reader.timeout(Setting::WriteTimeout, &mut config.write_timeout);
        reader.timeout(Setting::ReplyTimeout, &mut config.reply_timeout);
        reader.frames(&mut config.frame_limits, &mut config.frame_timeouts)?;
        reader.size(Setting::MaxInFlight, &mut config.max_in_flight)?;
        reader.finish(false)?;
        Ok(config)
    }

    pub(crate) fn fanout(&self) -> Result<fanout::Config, String> {
        let mut reader = Reader::new(self, "a fan-out server");
        let mut config = fanout::Config::default();
        let mut max = DEFAULT_MESSAGE_SIZE;
        reader.size(Setting::MessageSize, &mut max)?;
        let mut delimiter = b'\n';
        reader.number(Setting::Delimiter, &mut delimiter)?;
        let framing = reader.get(Setting::Framing).unwrap_or(Framing::Fixed as u64);
        config.framing = match Framing::of(framing) {
            Some(Framing::Fixed) => fanout::Framing::Fixed(max),
            Some(Framing::Delimited) => fanout::Framing::Delimited { delimiter, max },
            Some(Framing::LengthPrefixed) => fanout::Framing::LengthPrefixed { max },
            Some(Framing::None) => fanout::Framing::None,
            None => return Err(format!("framing is {framing}, which is unknown")),
        };
        let on_lag = reader.get(Setting::OnLag).unwrap_or(LagPolicy::Disconnect as u64);
        config.on_lag = match LagPolicy::of(on_lag) {
            Some(LagPolicy::Disconnect) => fanout::LagPolicy::Disconnect,
            Some(LagPolicy::Skip) => fanout::LagPolicy::Skip,
            Some(LagPolicy::Block) => fanout::LagPolicy::Block,
            None => return Err(format!("on_lag is {on_lag}, which is unknown")),
        };
        reader.number(Setting::Window, &mut config.window)?;
        if let Some(nanos) = reader.get(Setting::LagWait) {
            config.lag_wait = Duration::from_nanos(nanos);
        }
        reader.timeout(Setting::WriteTimeout, &mut config.write_timeout);
        reader.timeout(Setting::UpstreamIdleTimeout, &mut config.upstream_idle_timeout);
        reader.linger(&mut config.linger)?;
        reader.number(Setting::Replay, &mut config.replay)?;
        reader.finish(false)?;
        Ok(config)
    }
}

/// Makes settings that all have their defaults.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_config_new(config: *mut *mut Config) -> ResultCode {
    // SAFETY: the caller's pointer is valid.
    ResultCode::of(unsafe { pointer::store_new(config, Config::default()) })
}

/// Sets a `wirestate_setting`. The value is checked when a server or client is made.
///
/// `WIRESTATE_RESULT_VALUE`: this version does not know the setting.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_config_set(
    config: *mut Config,
    setting: u32,
    value: u64,
) -> ResultCode {
    // SAFETY: the caller's pointer is valid.
    let config = match unsafe { pointer::exclusive(config) } {
        Ok(config) => config,
        Err(code) => return code,
    };
    match Setting::of(setting) {
        Some(setting) => {
            config.values.insert(setting, value);
            ResultCode::Ok
        }
        None => ResultCode::Value,
    }
}

/// Echo: sets a text to send in front of every received chunk (`WIRESTATE_SETTING_PREFIX_CHUNK`).
/// The text is copied. Default: none.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_config_set_prefix(
    config: *mut Config,
    text: *const u8,
    len: usize,
) -> ResultCode {
    // SAFETY: the caller's pointer is valid.
    let config = unsafe { pointer::exclusive(config) };
    // SAFETY: the caller's pointer is valid.
    let text = unsafe { pointer::bytes(text, len) };
    ResultCode::of(config.and_then(|config| {
        config.prefix = Some(text?.to_owned());
        Ok(())
    }))
}

/// Frees settings. Servers and clients have copies. NULL is ignored.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_config_free(config: *mut Config) {
    // SAFETY: the caller gives the pointer back.
    drop(unsafe { pointer::take(config) });
}

/// Calls `f` with the settings, or with the defaults if the pointer is null. Stores the text of an
/// error.
///
/// # Safety
/// See [the rules](crate#safety).
pub(crate) unsafe fn with_config<T>(
    config: *const Config,
    error: *mut c_char,
    error_size: usize,
    f: impl FnOnce(&Config) -> Result<T, String>,
) -> Result<T, ResultCode> {
    // SAFETY: the caller's pointer is valid.
    let config = unsafe { config.as_ref() };
    let result = f(config.unwrap_or(&Config::default()));
    // SAFETY: the caller's pointer is valid.
    result.map_err(|text| unsafe { refuse(&text, error, error_size) })
}

/// Stores why settings cannot work.
///
/// # Safety
/// See [the rules](crate#safety).
pub(crate) unsafe fn refuse(text: &str, error: *mut c_char, error_size: usize) -> ResultCode {
    // SAFETY: the caller's pointer is valid.
    unsafe { pointer::store_text(text, error, error_size) };
    ResultCode::Config
}

const PREFIX_CHUNK: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
const DEFAULT_MESSAGE_SIZE: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
