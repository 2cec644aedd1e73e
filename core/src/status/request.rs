//! What a request's head asks for.

use std::net::{IpAddr, Ipv6Addr};

use httparse::EMPTY_HEADER;

use super::{
    negotiate::negotiate,
    page::{Exposition, Format, Page},
    response::{Code, Response},
};

/// By which names a status server may be asked, besides `localhost` and every address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedHosts {
    /// By any. For where no browser comes: a Unix socket.
    Any,
    /// By these, in any case, without a port.
    Named(Vec<String>),
}

impl AllowedHosts {
    /// Whether a request for the host of this name or address is for us.
    fn include(&self, name: &str) -> bool {
        let Self::Named(names) = self else { return true };
        let name = name.strip_suffix('.').unwrap_or(name);
        // Names below `localhost` are loopback as well (RFC 6761, section 6.3).
        let top = name.rsplit('.').next().unwrap_or_default();
        name.parse::<IpAddr>().is_ok()
            || top.eq_ignore_ascii_case("localhost")
            || names.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
    }
}

/// A request that was understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// It is answered without the content.
    pub(super) head_only: bool,
    /// Further requests may follow.
    pub(super) keep_alive: bool,
    /// What it asks for, or why it does not get it.
    pub(super) page: Result<Page, Refusal>,
}

/// Why a request is not answered by what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) why: &'static str,
}

const fn refusal(code: Code, why: &'static str) -> Refusal {
    Refusal { code, why }
}

impl Refusal {
    pub(super) fn response(self) -> Response {
        let retry_after = (self == TOO_MANY).then_some(1);
        Response { retry_after, ..Response::text(self.code, self.why) }
    }
}

const BAD_HOST: Refusal = refusal(Code::BadRequest, "a host that is none");
pub(super) const GARBAGE: Refusal = refusal(Code::BadRequest, "this is no HTTP request");
pub(super) const TOO_LONG: Refusal =
    refusal(Code::HeadTooLarge, "the head of a request has at most 8192 bytes and 64 fields");
pub(super) const TOO_MANY: Refusal =
    refusal(Code::ServiceUnavailable, "too many pages are requested; try again in a second");
pub(super) const TOO_LATE: Refusal =
    refusal(Code::RequestTimeout, "the head of the request was not whole in its time");

/// Looks at a request line, with its end, for what need not wait for the rest.
///
/// # Errors
/// It is none. Nothing that follows could be made sense of.
pub(super) fn check_line(line: &[u8]) -> Result<(), Refusal> {
    match httparse::Request::new(&mut []).parse(line) {
        // That there are no fields yet.
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Ok(()),
        Err(httparse::Error::Version) if is_other_version(line) => {
            Err(refusal(Code::VersionNotSupported, "this server speaks HTTP/1.1"))
        }
        Err(_) => Err(GARBAGE),
    }
}

/// Whether the line ends in a version of HTTP (RFC 9112, section 2.3).
fn is_other_version(line: &[u8]) -> bool {
    let version = line.trim_ascii_end().rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    match version.strip_prefix(b"HTTP/") {
        Some([major]) => major.is_ascii_digit(),
        Some([major, b'.', minor]) => major.is_ascii_digit() && minor.is_ascii_digit(),
        Some(_) | None => false,
    }
}

/// Makes a request of a whole head.
///
/// # Errors
/// It is none, or it can't be told where the next one begins: the connection is to be closed behind
/// the answer.
pub(super) fn parse(head: &[u8], hosts: &AllowedHosts) -> Result<Request, Refusal> {
    let mut fields = [EMPTY_HEADER; MOST_FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(GARBAGE),
        Err(httparse::Error::TooManyHeaders) => return Err(TOO_LONG),
        Err(_) => return Err(refusal(Code::BadRequest, "a malformed header field")),
    }
    let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
    let is_1_1 = parsed.version == Some(1);
    let fields = Fields(parsed.headers);

    let (authority, path, query) = split_target(target);
    let is_named = |host: &&str| !host.is_empty();
    let target_host =
        authority.map(|host| host_of(host).filter(is_named).ok_or(BAD_HOST)).transpose()?;
    let host = match fields.values("host").collect::<Vec<_>>()[..] {
        // The same for a client of HTTP/1.0, which knows no hosts (RFC 9112, section 3.2).
        [] if !is_1_1 => None,
        [host] => Some(host_of(host).ok_or(BAD_HOST)?),
        [] | [..] => return Err(refusal(Code::BadRequest, "one Host field is required")),
    };
    let head_only = method == "HEAD";
    let has_content = fields.announce_content()?;
    let is_close = |token: &str| token.eq_ignore_ascii_case("close");
    let keep_alive = is_1_1 && !has_content && !fields.tokens("connection").any(is_close);
    let page = match method {
        _ if target_host.or(host).is_some_and(|host| !hosts.include(host)) => {
            Err(refusal(Code::MisdirectedRequest, "this server is not known by that name"))
        }
        "GET" | "HEAD" => find(path, query, &fields).and_then(|page| {
            let content = refusal(Code::ContentTooLarge, "no request has content here");
            if has_content { Err(content) } else { Ok(page) }
        }),
        _ => Err(refusal(Code::MethodNotAllowed, "these pages can only be read")),
    };
    Ok(Request { head_only, keep_alive, page })
}

/// The authority, where the target names one (RFC 9112, section 3.2.2), the path, and the query.
fn split_target(target: &str) -> (Option<&str>, &str, &str) {
    let (target, query) = target.split_once('?').unwrap_or((target, ""));
    let scheme = target.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://"));
    match scheme.and_then(|_| target.get(7..)) {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            // The same (RFC 9110, section 4.2.3).
            (Some(authority), if path.is_empty() { "/" } else { path }, query)
        }
        None => (None, target, query),
    }
}

/// The name or address in `host` or `host:port` (RFC 3986, section 3.2.2), without brackets; `None`,
/// where it is neither. A name may be empty.
fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            rest.split_once(']').filter(|(address, _)| address.parse::<Ipv6Addr>().is_ok())?
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let in_host = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:".contains(&b);
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    let ends_well = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    (host.bytes().all(in_host) && ends_well).then_some(host)
}

fn find(path: &str, query: &str, fields: &Fields<'_, '_>) -> Result<Page, Refusal> {
    let accept = || fields.values("accept");
    Ok(match path {
        "/" => Page::Root,
        "/healthz" => Page::Health,
        "/readyz" => Page::Ready,
        "/metrics" => Page::Metrics(negotiate(
            accept(),
            &[
                ("text/plain", Exposition::Text),
                ("application/openmetrics-text", Exposition::OpenMetrics),
            ],
        )),
        "/connections" => {
            let asked = query.split('&').find_map(|pair| pair.strip_prefix("format="));
            Page::Connections(match asked {
                Some("text") => Format::Text,
                Some("json") => Format::Json,
                Some("html") => Format::Html,
                Some(_) => {
                    return Err(refusal(Code::NotFound, "the formats are text, json and html"));
                }
                None => negotiate(
                    accept(),
                    &[
                        ("text/plain", Format::Text),
                        ("text/html", Format::Html),
                        ("application/json", Format::Json),
                    ],
                ),
            })
        }
        _ => {
            let why = "the pages are /, /healthz, /readyz, /metrics and /connections";
            return Err(refusal(Code::NotFound, why));
        }
    })
}

struct Fields<'a, 'b>(&'a [httparse::Header<'b>]);

impl<'b> Fields<'_, 'b> {
    /// The values of all fields of that name; what is no UTF-8 is none that anybody understands.
    fn values(&self, name: &str) -> impl Iterator<Item = &'b str> {
        self.0
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .map(|field| core::str::from_utf8(field.value).unwrap_or("\u{fffd}").trim())
    }

    /// The same, where each value is a list of tokens.
    fn tokens(&self, name: &str) -> impl Iterator<Item = &'b str> {
        self.values(name).flat_map(|value| value.split(',').map(str::trim))
    }

    /// Whether content follows the head (RFC 9112, section 6).
    ///
    /// # Errors
    /// It says so twice, or in a way that can't be read: what to make of it is how requests are
    /// smuggled past whoever is in front.
    fn announce_content(&self) -> Result<bool, Refusal> {
        let mut lengths = self.tokens("content-length");
        let length = lengths.next();
        let valid = |length: &str| !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        if length.is_some_and(|length| !valid(length)) || lengths.any(|other| Some(other) != length)
        {
            return Err(refusal(Code::BadRequest, "a Content-Length that is none"));
        }
        let coded = self.values("transfer-encoding").next().is_some();
        if coded && length.is_some() {
            let why = "Content-Length and Transfer-Encoding exclude each other";
            return Err(refusal(Code::BadRequest, why));
        }
        Ok(coded || length.is_some_and(|length| length.bytes().any(|digit| digit != b'0')))
    }
}

/// How many fields a head has at most.
const MOST_FIELDS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_ours_are_refused_and_addresses_never() {
        let hosts = AllowedHosts::Named(vec!["status.example".into()]);
        for ours in [
            "localhost",
            "LocalHost:8000",
            "a.localhost",
            "localhost.",
            "127.0.0.1:8000",
            "[::1]",
            "[::1]:8000",
            "192.0.2.1",
            "status.example:1",
            "STATUS.example",
        ] {
            assert!(hosts.include(host_of(ours).unwrap()), "{ours}");
        }
        for other in [
            "",
            ":8000",
            "evil.example",
            "notlocalhost",
            "localhost.evil.example",
            "status.example.evil",
            "%c3%a4localhost",
            "127.0.0.1.evil.example",
        ] {
            assert!(!hosts.include(host_of(other).unwrap()), "{other}");
            assert!(AllowedHosts::Any.include(other));
        }
        for none in ["[evil]", "[::1", "[::1]evil.example", "::1", "a:b", "a:1:2", "ä", "a b", "a/"]
        {
            assert_eq!(host_of(none), None, "{none}");
        }
    }
}
