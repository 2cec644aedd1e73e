//! The pages for browsers, which refresh themselves: the dashboard, and the open connections.

use core::fmt::{self, Write};

use super::{
    super::http::{Response, StatusCode},
    connections::{COLUMNS, ConnectionList, push},
};

/// The dashboard. Its script makes the content from the JSON of `/`.
pub(super) fn dashboard() -> Response {
    respond(DASHBOARD.into())
}

pub(super) fn connections(list: &ConnectionList<'_>) -> Response {
    respond(connections_page(list).into_bytes())
}

fn respond(html: Vec<u8>) -> Response {
    let mut response = Response::new(StatusCode::Ok, "text/html; charset=utf-8", html);
    response.policy = Some(POLICY);
    response
}

pub(super) fn connections_page(list: &ConnectionList<'_>) -> String {
    let mut html = String::from(HEAD);
    push(&mut html, format_args!("<title>{}</title>\n", Escaped(&list.message)));
    html += CONNECTIONS_TOP;
    push(&mut html, format_args!("<h1 class=\"summary\">{}</h1>\n", Escaped(&list.summary())));
    html += "<nav><a href=\"/\">Overview</a></nav>\n<section class=\"table connections\">\n";
    html += "<table>\n<thead><tr>";
    for column in COLUMNS {
        push(&mut html, format_args!("<th>{}</th>", Escaped(column)));
    }
    html += "</tr></thead>\n<tbody>\n";
    for row in &list.connections {
        html += "<tr>";
        for cell in row.cells() {
            push(&mut html, format_args!("<td>{}</td>", Escaped(&cell)));
        }
        html += "</tr>\n";
    }
    html += CONNECTIONS_END;
    html
}

/// A text, escaped for HTML.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// The first lines of a page. The empty icon prevents a request for one.
const HEAD: &str = include_str!("head.html");

const DASHBOARD: &str = concat!(
    include_str!("head.html"),
    "<title>Wirestate</title>\n<style>\n",
    include_str!("style.css"),
    "</style>\n</head>\n<body>\n<p id=\"alert\" role=\"alert\" hidden></p>\n<main>\n",
    "<noscript>This page needs JavaScript. <a href=\"/connections\">Connections</a> and ",
    "<a href=\"/?format=json\">JSON</a> do not.</noscript>\n</main>\n<script>\n",
    include_str!("dashboard.js"),
    "</script>\n</body>\n</html>\n"
);

/// What follows the title of the page of connections, up to the content.
const CONNECTIONS_TOP: &str = concat!(
    "<style>\n",
    include_str!("style.css"),
    "</style>\n</head>\n<body>\n",
    "<p id=\"alert\" role=\"alert\" hidden>The server does not answer.</p>\n",
    "<main>\n",
);

const CONNECTIONS_END: &str = concat!(
    "</tbody></table></section>\n</main>\n<script>\n",
    include_str!("connections.js"),
    "</script>\n</body>\n</html>\n"
);

/// `Content-Security-Policy`: allows only the style and the scripts, by their SHA-256 hashes
/// (Content Security Policy, level 2).
const POLICY: &str = "default-src 'none'; connect-src 'self'; img-src data:; \
    script-src \
    'sha256-PGiPwtrmQ9u92J/A8+FGBLoSz2kq8ee9//TXfBTf8Hg=' \
    'sha256-f2kCq+r6M+Y7hHKg7ohx+W7XbHEvsvlsfT52gnqFv/o='; \
    style-src 'sha256-OWky00ASkk1dW7Q1iDQibr+ivEQEMqCYvprBxwQNQGw='; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_a_text_is_escaped() {
        let text = "<script>alert('1' & \"2\")</script>";
        assert_eq!(
            Escaped(text).to_string(),
            "&lt;script&gt;alert(&#39;1&#39; &amp; &quot;2&quot;)&lt;/script&gt;"
        );
    }
}
