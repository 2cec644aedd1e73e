//! Finds the page that a request is for.

use super::{
    http::{AllowedHosts, Refusal, RequestHead, StatusCode, negotiate},
    metrics::Exposition,
    pages::{ListFormat, OverviewFormat, Page},
};

/// A request for a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// The page, or why the request is refused.
    pub(super) page: Result<Page, Refusal>,
    /// Further requests may follow.
    pub(super) keep_alive: bool,
}

impl Request {
    /// The request with this head.
    ///
    /// # Errors
    /// It has content, which is not read, and so does not say where the next request begins.
    pub(super) fn new(head: &RequestHead<'_>, hosts: &AllowedHosts) -> Result<Self, Refusal> {
        let page = find(head, hosts);
        if page.is_ok() && head.has_content {
            return Err(CONTENT);
        }
        Ok(Self { page, keep_alive: head.keep_alive })
    }
}

fn find(head: &RequestHead<'_>, hosts: &AllowedHosts) -> Result<Page, Refusal> {
    if head.host.is_some_and(|host| !hosts.include(host)) {
        return Err(Refusal::new(
            StatusCode::MisdirectedRequest,
            "this server does not answer for that host",
        ));
    }
    if !matches!(head.method, "GET" | "HEAD") {
        return Err(Refusal::new(StatusCode::MethodNotAllowed, "the methods are GET and HEAD"));
    }
    page(head)
}

fn page(head: &RequestHead<'_>) -> Result<Page, Refusal> {
    Ok(match head.path {
        "/" => Page::Overview(format(
            head,
            &[("application/json", OverviewFormat::Json), ("text/html", OverviewFormat::Html)],
        )?),
        "/healthz" => Page::Health,
        "/readyz" => Page::Ready,
        "/metrics" => Page::Metrics(negotiate(
            head.accept.iter().copied(),
            &[
                ("text/plain", Exposition::Text),
                ("application/openmetrics-text", Exposition::OpenMetrics),
            ],
        )),
        "/connections" => Page::Connections {
            format: format(
                head,
                &[
                    ("text/plain", ListFormat::Text),
                    ("text/html", ListFormat::Html),
                    ("application/json", ListFormat::Json),
                ],
            )?,
            server: parameter(head.query, "server"),
        },
        _ => {
            let message = "the pages are /, /healthz, /readyz, /metrics and /connections";
            return Err(Refusal::new(StatusCode::NotFound, message));
        }
    })
}

/// The format that the request asks for, by `?format=` or by its `Accept` field.
fn format<T: Copy>(head: &RequestHead<'_>, offers: &[(&str, T)]) -> Result<T, Refusal> {
    let Some(name) = parameter(head.query, "format") else {
        return Ok(negotiate(head.accept.iter().copied(), offers));
    };
    let wanted = match &*name {
        "text" => "text/plain",
        "json" => "application/json",
        "html" => "text/html",
        _ => return Err(NO_SUCH_FORMAT),
    };
    let offer = offers.iter().find(|(offer, _)| *offer == wanted);
    offer.map(|(_, format)| *format).ok_or(NO_SUCH_FORMAT)
}

/// The value of a parameter in a query. Percent-encoded bytes are decoded (RFC 3986, section 2.1).
/// Bytes that are not UTF-8 become U+FFFD.
fn parameter(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let mut parts = value.split('%');
    let mut bytes = Vec::from(parts.next().unwrap_or_default());
    for part in parts {
        let digits = part.get(..2).filter(|digits| !digits.starts_with('+'));
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            bytes.push(byte);
            bytes.extend_from_slice(&part.as_bytes()[2..]);
        } else {
            bytes.push(b'%');
            bytes.extend_from_slice(part.as_bytes());
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

const NO_SUCH_FORMAT: Refusal =
    Refusal::new(StatusCode::NotFound, "the formats are text (not of /), json and html");
const CONTENT: Refusal =
    Refusal::new(StatusCode::ContentTooLarge, "a request must not have content");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_decoded() {
        for (query, expected) in [
            ("server=a", Some("a")),
            ("format=json&server=a%20b%26%c3%A4&x", Some("a b&\u{e4}")),
            ("server=100%", Some("100%")),
            ("server=%+1%4", Some("%+1%4")),
            ("server=%ff", Some("\u{fffd}")),
            ("server=", Some("")),
            ("server", None),
            ("servers=a", None),
            ("", None),
        ] {
            assert_eq!(parameter(query, "server").as_deref(), expected, "{query}");
        }
    }
}
