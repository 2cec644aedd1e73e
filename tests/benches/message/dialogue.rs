//! The requests, and the replies of a server.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
};

use wirestate_command_line::search;
use wirestate_core::{
    buffer::Pool,
    message::{ByteOrder, FrameLimits, Inbox, Message},
};

/// The size of a request, in bytes.
pub(crate) const REQUEST: usize = 146;

/// The entries of the table. The requests search for them in this order.
const ENTRIES: usize = 16;

/// The table in which the servers search.
pub(crate) fn table() -> BTreeMap<String, String> {
    (0..ENTRIES).map(|number| (key(number), entry(number))).collect()
}

fn key(number: usize) -> String {
    format!("entry-{number:02}")
}

fn entry(number: usize) -> String {
    format!("This is what stands under {number:02}.")
}

fn request(number: usize) -> Vec<u8> {
    // The same word on every machine, so that all requests have the same size.
    let byteorder = ByteOrder::Little;
    let mut frame = Vec::new();
    Message { byteorder, ..search::request("search", &key(number)) }
        .encode(&mut frame)
        .expect("the header is short");
    assert_eq!(frame.len(), REQUEST);
    frame
}

/// The requests in order, and one server's replies to them. After the last request the first
/// follows.
pub(crate) struct Dialogue {
    requests: Vec<u8>,
    replies: Vec<u8>,
    /// The size of each reply, in bytes.
    reply: usize,
}

impl Dialogue {
    /// Requests each entry once and checks the replies. [`requests`](Self::requests) can then
    /// return at most `max` requests.
    pub(crate) fn learn(server: &mut TcpStream, max: usize) -> io::Result<Self> {
        let exchanges: Vec<_> = (0..ENTRIES)
            .map(|number| {
                let request = request(number);
                server.write_all(&request)?;
                Ok((request, receive(server, number)?))
            })
            .collect::<io::Result<_>>()?;
        let reply = exchanges[0].1.len();
        if exchanges.iter().any(|(_, other)| other.len() != reply) {
            return Err(wrong("the replies differ in size"));
        }
        let mut dialogue = Self { requests: Vec::new(), replies: Vec::new(), reply };
        for (request, reply) in exchanges.iter().cycle().take(ENTRIES + max) {
            dialogue.requests.extend_from_slice(request);
            dialogue.replies.extend_from_slice(reply);
        }
        Ok(dialogue)
    }

    /// The `count` requests from `first` on.
    pub(crate) fn requests(&self, first: usize, count: usize) -> &[u8] {
        &self.requests[first % ENTRIES * REQUEST..][..count * REQUEST]
    }

    /// The size in bytes of the requests that the first `replied` bytes of replies answer. A
    /// partial reply counts as a reply.
    pub(crate) fn answered(&self, replied: usize) -> usize {
        replied.div_ceil(self.reply) * REQUEST
    }

    /// The replies to the same requests.
    pub(crate) fn replies(&self, first: usize, count: usize) -> &[u8] {
        &self.replies[first % ENTRIES * self.reply..][..count * self.reply]
    }
}

/// Reads a reply, checks it, and returns its bytes.
fn receive(server: &mut TcpStream, number: usize) -> io::Result<Vec<u8>> {
    let mut inbox = Inbox::new(FrameLimits::default(), Pool::new(8 * 1024, 0))
        .expect("the buffer is large enough");
    let mut frame = Vec::new();
    loop {
        let spare = inbox.spare();
        let n = server.read(spare)?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        frame.extend_from_slice(&spare[..n]);
        inbox.commit(n);
        if let Some(reply) = inbox.next_message().map_err(io::Error::other)? {
            let result = search::result(&reply).map_err(io::Error::other)?;
            let utf_8 = reply.content_encoding == "utf-8" && reply.byteorder == ByteOrder::NATIVE;
            if !reply.is_json() || !utf_8 || result != entry(number) {
                return Err(wrong("the result is not the entry of the table"));
            }
            break;
        }
    }
    if inbox.partial().is_some() {
        return Err(wrong("bytes follow the reply"));
    }
    Ok(frame)
}

pub(crate) fn wrong(fault: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("a wrong reply: {fault}"))
}
