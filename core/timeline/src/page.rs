//! The HTML page: a frame, its style and script, and the events as JSON.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use serde_core::{Serialize, Serializer};
use serde_json::ser::Formatter;

use super::{Event, Lane, LaneRow, Payload, Timeline, nanos};

impl Timeline {
    /// Writes one HTML page that needs no network and no other file.
    ///
    /// A content security policy forbids the page to load or send anything. Everything from the
    /// timeline is data to its script and is shown as text, so a payload cannot become markup.
    ///
    /// The page has 60 KiB, about 25 bytes an event, 19 bytes a digest, and at most six times the
    /// length of an excerpt. While it is written, about 100 bytes an event are in memory.
    ///
    /// # Errors
    /// If writing to `out` fails.
    pub fn write_html(&self, mut out: impl Write) -> io::Result<()> {
        out.write_all(HEAD.as_bytes())?;
        let mut json = serde_json::Serializer::with_formatter(&mut out, InScript);
        self.columns().serialize(&mut json)?;
        out.write_all(END.as_bytes())?;
        out.flush()
    }

    /// The data in the order of `const [title, …]` in `data.js`. Each event has one number: a count
    /// of bytes, an index in `texts`, or the nanoseconds until a deadline.
    fn columns(&self) -> impl Serialize {
        let mut order: Vec<_> = self.entries.iter().collect();
        order.sort_by_key(|entry| entry.at);
        let start = order.first().map_or(0, |entry| entry.at);
        let mut last = start;
        let (mut gaps, mut lanes, mut kinds, mut numbers) = (vec![], vec![], vec![], vec![]);
        let (mut excerpts, mut digests) = (vec![], vec![]);
        let mut texts = Texts::default();
        for entry in order {
            gaps.push(entry.at - last);
            last = entry.at;
            lanes.push(entry.lane.0);
            let (kind, number) = match &entry.event {
                Event::Dialled => (0, Some(0)),
                Event::Refused => (1, Some(0)),
                Event::Connected => (2, Some(0)),
                Event::Accepted => (3, Some(0)),
                Event::Sent(payload) => (4, Some(payload.count)),
                Event::Received(payload) => (5, Some(payload.count)),
                Event::Eof => (6, Some(0)),
                Event::Finished => (7, Some(0)),
                Event::Reset => (8, Some(0)),
                Event::Closed => (9, Some(0)),
                Event::Deadline(at) => (10, at.map(|at| nanos(at).saturating_sub(entry.at))),
                Event::Timeout => (11, Some(0)),
                Event::ShutDown => (12, Some(0)),
                Event::Shared => (13, Some(0)),
                Event::Fault(text) => (14, Some(texts.index(text))),
                Event::Error(text) => (15, Some(texts.index(text))),
                Event::State(text) => (16, Some(texts.index(text))),
                Event::Reason(text) => (17, Some(texts.index(text))),
                Event::Note(text) => (18, Some(texts.index(text))),
            };
            kinds.push(kind);
            numbers.push(number);
            if let Event::Sent(payload) | Event::Received(payload) = &entry.event {
                excerpts.push(Latin1(payload));
                digests.push(payload.digest.map(|digest| format!("{digest:016x}")));
            }
        }
        (
            (&self.title, &self.facts, self.left_out),
            &self.lanes,
            texts.list,
            // A number of JavaScript has 53 bits.
            start.to_string(),
            (gaps, lanes, kinds, numbers),
            (excerpts, digests),
        )
    }
}

/// The different texts of all events.
#[derive(Default)]
struct Texts<'a> {
    list: Vec<&'a str>,
    indexes: BTreeMap<&'a str, u64>,
}

impl<'a> Texts<'a> {
    fn index(&mut self, text: &'a str) -> u64 {
        *self.indexes.entry(text).or_insert_with(|| {
            self.list.push(text);
            self.list.len() as u64 - 1
        })
    }
}

impl Serialize for LaneRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.connection, &self.end, self.peer.map(|Lane(index)| index)).serialize(serializer)
    }
}

/// An excerpt as a string with one character for each byte.
struct Latin1<'a>(&'a Payload);

impl Serialize for Latin1<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.excerpt.iter().copied().map(char::from).collect::<String>().serialize(serializer)
    }
}

/// JSON without `<`, so that it can contain neither `</script` nor `<!--`, which would end the
/// element or change its end (HTML, "Restrictions for contents of script elements").
struct InScript;

impl Formatter for InScript {
    fn write_string_fragment<W: Write + ?Sized>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for (i, part) in fragment.split('<').enumerate() {
            if i > 0 {
                out.write_all(b"\\u003c")?;
            }
            out.write_all(part.as_bytes())?;
        }
        Ok(())
    }
}

/// All that precedes the events. The policy names the style and the script by their SHA-256 hashes
/// (Content Security Policy, level 2).
const HEAD: &str = concat!(
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; ",
    "style-src 'sha256-F2Oap7jH+J7Dvwva72UTnNFbsmenjsOgxbNMy+nAQjc='; ",
    "script-src 'sha256-tjx5oQV9sQEkszF3pMYrU+qoDHt1irqI4Lz+P94Iuvw='; ",
    "base-uri 'none'; form-action 'none'\">\n",
    include_str!("page/head.html"),
    "<style>\n",
    include_str!("page/style.css"),
    "</style>\n</head>\n",
    include_str!("page/body.html"),
    "<script type=\"application/json\" id=\"data\">",
);

/// All that follows the events.
const END: &str = concat!(
    "</script>\n<script>\n",
    include_str!("page/data.js"),
    include_str!("page/view.js"),
    include_str!("page/marks.js"),
    include_str!("page/draw.js"),
    include_str!("page/overview.js"),
    include_str!("page/panels.js"),
    include_str!("page/input.js"),
    "</script>\n</body>\n</html>\n",
);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    fn data(timeline: &Timeline) -> Value {
        let mut page = Vec::new();
        timeline.write_html(&mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        let data = page.strip_prefix(HEAD).unwrap().strip_suffix(END).unwrap();
        assert!(!data.contains('<'), "{data}");
        serde_json::from_str(data).unwrap()
    }

    #[test]
    fn the_columns_are_in_the_order_of_time() {
        let mut timeline = Timeline::new("</script>");
        timeline.add_fact("seed", "42");
        let [client, server] = ["client", "server"].map(|end| timeline.add_lane("client/0", end));
        timeline.connect(client, server);
        let at = Duration::from_nanos;
        timeline.push(at(30), client, Event::State("<open>".into()));
        timeline.push(at(30), client, Event::Deadline(Some(at(130))));
        timeline.push(at(30), client, Event::Deadline(None));
        timeline.push(at(10), server, Event::Note("<open>".into()));
        timeline.push(at(20), server, Event::Sent(Payload::cut(9, b"<\xff").with_digest(1)));
        let expected = json!([
            ["</script>", [["seed", "42"]], 0],
            [["client/0", "client", 1], ["client/0", "server", 0]],
            ["<open>"],
            "10",
            [[0, 10, 10, 0, 0], [1, 1, 0, 0, 0], [18, 4, 16, 10, 10], [0, 9, 0, 100, null]],
            [["<\u{ff}"], ["0000000000000001"]],
        ]);
        assert_eq!(data(&timeline), expected);
    }

    #[test]
    fn a_failure_of_the_output_is_returned() {
        let full = &mut [0; 100][..];
        let error = Timeline::new("long").write_html(full).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
        let mut most = vec![0; HEAD.len() + 5];
        let error = Timeline::new("long").write_html(&mut most[..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero, "{error}");
    }
}
