//! The list of open connections as a page for browsers, which refreshes itself.

use core::fmt::{self, Write};

use super::{
    super::http::{Response, StatusCode},
    connections::{COLUMNS, ConnectionList, push},
};

pub(super) fn respond(list: &ConnectionList) -> Response {
    let html = page(list).into_bytes();
    let mut response = Response::new(StatusCode::Ok, "text/html; charset=utf-8", html);
    response.policy = Some(POLICY);
    response
}

pub(super) fn page(list: &ConnectionList) -> String {
    let mut html = String::from(PAGE_TOP);
    push(&mut html, format_args!("<title>{}</title>\n", Escaped(&list.message)));
    push(&mut html, format_args!("<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"));
    push(&mut html, format_args!("<p>{}</p>\n<table>\n<tr>", Escaped(&list.summary())));
    for column in COLUMNS {
        push(&mut html, format_args!("<th>{}</th>", Escaped(column)));
    }
    html += "</tr>\n";
    for row in &list.connections {
        html += "<tr>";
        for cell in row.cells() {
            push(&mut html, format_args!("<td>{}</td>", Escaped(&cell)));
        }
        html += "</tr>\n";
    }
    html += "</table>\n</main>\n";
    push(&mut html, format_args!("<script>{SCRIPT}</script>\n</body>\n</html>\n"));
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

/// The first lines of the page. The empty icon prevents a request for one.
const PAGE_TOP: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,">
"#;

const STYLE: &str = r#"
body { font: 14px system-ui, sans-serif; margin: 2em; color-scheme: light dark }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .2em .8em; text-align: right; border-bottom: 1px solid #8884 }
td:nth-child(2), td:nth-child(3), th:nth-child(2), th:nth-child(3) { text-align: left }
body.lost main { opacity: .4 }
body.lost::before { content: "The server does not answer." }
"#;

/// Loads the page again every two seconds, and replaces its content.
const SCRIPT: &str = r"
const renew = async () => {
  try {
    const answer = await fetch('/connections?format=html');
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
    document.querySelector('main').replaceWith(page.querySelector('main'));
    document.body.className = 'live';
  } catch {
    document.body.className = 'lost';
  }
  setTimeout(renew, 2000);
};
setTimeout(renew, 2000);
";

/// `Content-Security-Policy`: allows only [`STYLE`] and [`SCRIPT`], by their SHA-256 hashes
/// (Content Security Policy, level 2).
const POLICY: &str = "default-src 'none'; connect-src 'self'; img-src data:; \
    script-src 'sha256-hKtcjNMwwzU3f6gVgD6Zc7LMKB7Ijcwk6Fa2FwS//Y8='; \
    style-src 'sha256-flLVMQUPJccU0Pw/ZB+Moekvyp+1C8kr5qvve85L7/A='; \
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
