//! The address of a stream: the servers of a cluster, a subject, and what a new stream is like.

use core::{fmt, str::FromStr, time::Duration};
use std::ffi::OsStr;

use clap::{Arg, builder::TypedValueParser};
use wirestate_core::nats::{
    Credentials, check_subject,
    jetstream::{InvalidStreamName, Storage, StreamConfig, check_stream_name, stream_name},
};

use crate::values;

/// The address of a stream, `nats://HOST/SUBJECT` or `tls://HOST/SUBJECT`.
///
/// `Display` and `Debug` show no secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct StreamAddress {
    pub(crate) has_tls: bool,
    /// The TLS handshake comes before INFO.
    pub(crate) is_tls_first: bool,
    /// A user and a password, a token, or none.
    pub(crate) credentials: Credentials,
    /// Each `HOST:PORT`, at least one.
    pub(crate) servers: Vec<String>,
    /// The stream's name and subject, and its settings if it is created.
    pub(crate) stream: StreamConfig,
}

impl StreamAddress {
    /// Whether `text` is meant as the address of a stream.
    pub(crate) fn has_scheme(text: &str) -> bool {
        SCHEMES.iter().any(|(scheme, _)| text.starts_with(scheme))
    }
}

impl FromStr for StreamAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = SCHEMES
            .iter()
            .find_map(|(scheme, has_tls)| text.strip_prefix(scheme).map(|rest| (rest, *has_tls)));
        let (rest, has_tls) = found.ok_or(EXPECTED)?;
        // Otherwise a part of the password is taken for a host, and is in an error message.
        if rest.find(['/', '?']).is_some_and(|end| rest[end..].contains('@')) {
            return Err("in a user, password or token, write %2F for / and %3F for ?; elsewhere, \
                        write %40 for @"
                .into());
        }
        let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, subject) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            None => (None, authority),
            Some((user, hosts)) => (Some(user), hosts),
        };
        let credentials = user.map_or(Ok(Credentials::None), credentials)?;
        let servers = servers(hosts)?;
        let subject = decoded(subject, "the subject")?;
        if subject.is_empty() {
            let [scheme, host] = [if has_tls { "tls" } else { "nats" }, &*servers[0]];
            return Err(format!(
                "the subject is missing, write {scheme}://{host}/SUBJECT, as in \
                 {scheme}://{host}/feed"
            ));
        }
        check_subject(&subject).map_err(|error| format!("`{subject}`: {error}"))?;
        let (mut stream, mut is_tls_first) = (StreamConfig::new("", subject), false);
        for (name, value) in split_parameters(parameters)? {
            match name {
                "tls" if value == "first" => is_tls_first = true,
                "tls" => {
                    return Err("tls: expected `first`, for a handshake before INFO".into());
                }
                _ => set(&mut stream, name, &value)?,
            }
        }
        if is_tls_first && !has_tls {
            return Err("tls=first needs TLS, write tls:// instead of nats://".into());
        }
        if stream.name.is_empty() {
            let subject = &stream.subjects[0];
            stream.name = stream_name(subject)
                .and_then(check_length)
                .map_err(|error| format!("{error}, write /{subject}?stream=NAME"))?;
        }
        Ok(Self { has_tls, is_tls_first, credentials, servers, stream })
    }
}

/// The parameters behind the `?`, with their values.
fn split_parameters(text: &str) -> Result<Vec<(&str, String)>, String> {
    let mut parameters: Vec<(&str, String)> = Vec::new();
    for parameter in text.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if parameters.iter().any(|(other, _)| *other == name) {
            return Err(format!("`{name}` is given twice"));
        }
        parameters.push((name, decoded(value, name)?));
    }
    Ok(parameters)
}

/// Sets what the parameter `name` stands for.
fn set(stream: &mut StreamConfig, name: &str, value: &str) -> Result<(), String> {
    let set = match name {
        "stream" => check_stream_name(value)
            .and_then(|name| check_length(name.into()))
            .map(|name| stream.name = name)
            .map_err(|error| error.to_string()),
        "replicas" => replicas(value).map(|replicas| stream.replicas = replicas),
        "max-bytes" => values::bytes(value).map(|max| stream.max_bytes = Some(max as u64)),
        "max-age" => max_age(value).map(|age| stream.max_age = Some(age)),
        "storage" => storage(value).map(|storage| stream.storage = storage),
        _ => {
            return Err(format!(
                "unknown parameter `{name}`, expected stream, replicas, max-bytes, max-age, \
                 storage or tls"
            ));
        }
    };
    set.map_err(|error| format!("{name}: {error}"))
}

fn credentials(text: &str) -> Result<Credentials, String> {
    let (user, password) = match text.split_once(':') {
        None => (text, None),
        Some((user, password)) => (user, Some(password)),
    };
    if user.is_empty() {
        return Err("there is nothing before @, write USER:PASSWORD@HOST or TOKEN@HOST".into());
    }
    // An error has no text of a secret.
    let user = decoded(user, "the user, password or token")?;
    Ok(match password {
        None => Credentials::Token(user),
        Some(password) => {
            let password = decoded(password, "the user, password or token")?;
            Credentials::User { user, password }
        }
    })
}

fn servers(text: &str) -> Result<Vec<String>, String> {
    let mut servers = Vec::new();
    for host in text.split(',') {
        if host.is_empty() {
            return Err("a host is missing, write nats://HOST/SUBJECT or \
                        nats://HOST1,HOST2/SUBJECT"
                .into());
        }
        if host.ends_with(':') {
            return Err(format!("the port is missing, write {host}{DEFAULT_PORT}"));
        }
        let has_port = host.contains(':') && !host.ends_with(']');
        let server = if has_port { host.into() } else { format!("{host}:{DEFAULT_PORT}") };
        let server = values::remote(&server)?;
        if servers.contains(&server) {
            return Err(format!("the server {server} is given twice"));
        }
        servers.push(server);
    }
    Ok(servers)
}

/// Checks the length of a stream's name: the stream of the lease has it with a prefix.
fn check_length(name: String) -> Result<String, InvalidStreamName> {
    let (length, limit) = (name.len(), MAX_STREAM_NAME);
    if length > limit { Err(InvalidStreamName::TooLong { length, limit }) } else { Ok(name) }
}

fn replicas(text: &str) -> Result<usize, String> {
    let replicas = text.parse().ok().filter(|replicas| (1..=MAX_REPLICAS).contains(replicas));
    replicas.ok_or_else(|| format!("expected a number from 1 to {MAX_REPLICAS}"))
}

fn max_age(text: &str) -> Result<Duration, String> {
    match values::time(text)? {
        age if age < MIN_AGE => Err("expected at least 1s".into()),
        age => Ok(age),
    }
}

fn storage(text: &str) -> Result<Storage, String> {
    match text {
        "file" => Ok(Storage::File),
        "memory" => Ok(Storage::Memory),
        _ => Err("expected `file` or `memory`".into()),
    }
}

/// Decodes percent-encoding (RFC 3986, section 2.1). `what` is the name of the text.
fn decoded(text: &str, what: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        let byte = match (first, behind) {
            (b'%', [high, low, behind @ ..]) => {
                rest = behind;
                hexadecimal(*high, *low)
            }
            (b'%', _) => None,
            (byte, _) => Some(byte),
        };
        let byte = byte.ok_or_else(|| {
            format!("{what} has a % without two hexadecimal digits, write %25 for a %")
        })?;
        bytes.push(byte);
    }
    String::from_utf8(bytes).map_err(|_| format!("{what} is not UTF-8"))
}

fn hexadecimal(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

impl fmt::Display for StreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { has_tls, servers, stream, .. } = self;
        let scheme = if *has_tls { "tls" } else { "nats" };
        let (name, subject) = (&stream.name, &stream.subjects[0]);
        write!(f, "{scheme}://{}/{subject}", servers.join(","))?;
        if stream_name(subject).as_ref() == Ok(name) {
            return Ok(());
        }
        write!(f, "?stream={name}")
    }
}

impl fmt::Debug for StreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A parser of a flag's value whose error messages show no user, password or token.
pub(crate) struct Redacting<T>(pub(crate) fn(&str) -> Result<T, String>);

impl<T> Clone for Redacting<T> {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Redacting<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &clap::Command,
        flag: Option<&Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        let parse = self.0;
        let Some(text) = value.to_str() else {
            return parse.parse_ref(command, flag, value);
        };
        parse(text).or_else(|error| {
            // clap makes the message of the value that its parser gets.
            let fail = move |_: &str| Err::<T, _>(error.clone());
            fail.parse_ref(command, flag, OsStr::new(&redacted(text)))
        })
    }
}

/// `text` without what stands between the scheme and the last `@`.
pub(crate) fn redacted(text: &str) -> String {
    match text.rsplit_once('@') {
        None => text.into(),
        Some((before, rest)) => {
            let scheme = before.find("://").map_or("", |at| &before[..at + 3]);
            format!("{scheme}***@{rest}")
        }
    }
}

/// The schemes, and whether each has TLS.
const SCHEMES: [(&str, bool); 2] = [("nats://", false), ("tls://", true)];
/// The port of NATS.
const DEFAULT_PORT: u16 = 4222;
/// The most replicas of a stream
/// ([Streams](https://docs.nats.io/nats-concepts/jetstream/streams#configuration)).
const MAX_REPLICAS: usize = 5;
/// The server accepts less. A stream whose messages vanish at once is a mistake.
const MIN_AGE: Duration = Duration::from_secs(1);
/// The longest name of a stream, in bytes: a server accepts 255 (`JSMaxNameLen`).
const MAX_STREAM_NAME: usize = 255 - "KV_wirestate_".len();
const EXPECTED: &str = "expected nats://HOST/SUBJECT or tls://HOST/SUBJECT, as in \
                        nats://127.0.0.1:4222/feed";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> StreamAddress {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn an_address_has_servers_credentials_a_subject_and_the_settings_of_its_stream() {
        let short = parse("nats://localhost/feed.prices");
        assert_eq!(short.servers, ["localhost:4222"]);
        assert_eq!(short.stream, StreamConfig::new("feed_prices", "feed.prices"));
        assert_eq!((short.has_tls, short.credentials), (false, Credentials::None));

        let long = parse(
            "tls://us%40er:p%3A%2Fw@a.example:1,[::1],10.0.0.1:2/f%C3%BC.%3f?stream=S-1&replicas=3\
             &max-bytes=1GiB&max-age=1h&storage=memory&tls=first",
        );
        assert_eq!(long.servers, ["a.example:1", "[::1]:4222", "10.0.0.1:2"]);
        let (user, password) = ("us@er".into(), "p:/w".into());
        assert_eq!(long.credentials, Credentials::User { user, password });
        assert!(long.has_tls && long.is_tls_first);
        let mut stream = StreamConfig::new("S-1", "fü.?");
        stream.replicas = 3;
        stream.max_bytes = Some(1 << 30);
        stream.max_age = Some(Duration::from_secs(3600));
        stream.storage = Storage::Memory;
        assert_eq!(long.stream, stream);
    }

    #[test]
    fn a_token_stands_alone_before_the_hosts() {
        assert_eq!(parse("nats://s3cr3t@h/f").credentials, Credentials::Token("s3cr3t".into()));
        let empty = Credentials::User { user: "u".into(), password: String::new() };
        assert_eq!(parse("nats://u:@h/f").credentials, empty);
    }

    #[test]
    fn the_error_of_a_wrong_address_says_what_to_write() {
        let long = format!("nats://h/f?stream={}", "x".repeat(250));
        for (address, expected) in [
            ("", "expected nats://HOST/SUBJECT"),
            ("localhost:4222", "expected nats://HOST/SUBJECT or tls://HOST/SUBJECT"),
            ("http://h/f", "expected nats://HOST/SUBJECT"),
            ("nats:/h/f", "expected nats://HOST/SUBJECT"),
            ("nats://", "a host is missing, write nats://HOST/SUBJECT"),
            ("nats:///f", "a host is missing"),
            ("nats://a,,b/f", "a host is missing"),
            ("nats://u:p@/f", "a host is missing"),
            ("nats://a,nats://b/f", "port is missing"),
            ("nats://h", "the subject is missing, write nats://h:4222/SUBJECT"),
            ("tls://h/", "the subject is missing, write tls://h:4222/SUBJECT"),
            ("nats://h/?stream=S", "the subject is missing"),
            ("nats://h:/f", "the port is missing, write h:4222"),
            ("nats://h:x/f", "`x` is not a port"),
            ("nats://h:0/f", "port 0 cannot be connected to"),
            ("nats://h:65536/f", "`65536` is not a port"),
            ("nats://::1/f", "write [::1]:PORT"),
            ("nats://[::x]/f", "`::x` is not an IPv6 address"),
            ("nats://a b/f", "`a b` is not a host name"),
            ("nats://a,a:4222/f", "the server a:4222 is given twice"),
            ("nats://@h/f", "write USER:PASSWORD@HOST or TOKEN@HOST"),
            ("nats://:p@h/f", "write USER:PASSWORD@HOST or TOKEN@HOST"),
            ("nats://u:p%@h/f", "the user, password or token has a % without two"),
            ("nats://u:p%+1@h/f", "the user, password or token has a % without two"),
            ("nats://u:p%ff@h/f", "the user, password or token is not UTF-8"),
            ("nats://u:p/w@h/f", "write %2F for / and %3F for ?"),
            ("nats://u:p?w@h/f", "write %2F for / and %3F for ?"),
            ("nats://h/f@g", "write %40 for @"),
            ("nats://h/f..g?stream=S", "`f..g`: a subject has an empty token"),
            ("nats://h/f%20g?stream=S", "`f g`: a subject has byte 0x20"),
            ("nats://h/f.*?stream=S", "a subject has a wildcard"),
            ("nats://h/f.%3E?stream=S", "a subject has a wildcard"),
            ("nats://h/ü", "the name of a stream has 'ü', expected letters, digits"),
            ("nats://h/a/b", "write /a/b?stream=NAME"),
            ("nats://h/f?stream=", "stream: the name of a stream is empty"),
            ("nats://h/f?stream=a.b", "stream: the name of a stream has '.', expected letters"),
            (&long, "stream: the name of a stream has 250 bytes, the limit is 242"),
            ("nats://h/f?replicas=0", "replicas: expected a number from 1 to 5"),
            ("nats://h/f?replicas=6", "replicas: expected a number from 1 to 5"),
            ("nats://h/f?replicas", "replicas: expected a number from 1 to 5"),
            ("nats://h/f?max-bytes=1GB", "max-bytes: expected a number of bytes"),
            ("nats://h/f?max-bytes=0", "max-bytes: expected at least 1B"),
            ("nats://h/f?max-age=1", "max-age: expected a time with its unit"),
            ("nats://h/f?max-age=0s", "max-age: expected at least 1s"),
            ("nats://h/f?storage=disk", "storage: expected `file` or `memory`"),
            ("nats://h/f?tls=first", "write tls:// instead of nats://"),
            ("tls://h/f?tls=no", "tls: expected `first`"),
            ("nats://h/f?strem=S", "unknown parameter `strem`, expected stream, replicas"),
            ("nats://h/f?stream=S&stream=S", "`stream` is given twice"),
        ] {
            let error = address.parse::<StreamAddress>().unwrap_err();
            assert!(error.contains(expected), "{address:?}: {error}");
        }
    }

    #[test]
    fn neither_an_address_nor_an_error_shows_a_secret() {
        let address = parse("nats://user:s3cr3t@a,b:1/f?stream=S&replicas=2");
        for shown in [address.to_string(), format!("{address:?}")] {
            assert_eq!(shown, "nats://a:4222,b:1/f?stream=S");
        }
        assert_eq!(parse("tls://s3cr3t@a/f.g").to_string(), "tls://a:4222/f.g");
        for text in [
            "nats://user:s3cr3t@h:x/f",
            "nats://s3cr3t@h",
            "nats://user:s3cr3t%@h/f",
            "nats://user:s3cr3t/@h/f",
            "nats://user:s3cr3t?@h/f",
            "nats://user:s3cr3t@x@h/f?y",
            "user:s3cr3t@h",
        ] {
            let parser = Redacting(StreamAddress::from_str);
            let flag = Arg::new("publish").long("publish").value_parser(parser);
            let command = clap::Command::new("x").arg(flag);
            let error = command.try_get_matches_from(["x", "--publish", text]).unwrap_err();
            let error = error.to_string();
            assert!(!error.contains("s3cr3t"), "{error}");
            assert!(error.contains("***@h"), "{error}");
        }
    }
}
