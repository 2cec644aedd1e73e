//! TLS between two buffers: records in, records out.

use core::fmt;

use rustls::{
    CommonState, Error,
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncryptError, UnbufferedStatus, WriteTraffic},
};
use wirestate_core::buffer::Pool;

use crate::buffer::Buffer;

/// One side of a TLS connection, with the ciphertext that was received and that is pending.
///
/// rustls decrypts a record only when it is asked for, so ciphertext that the inner side cannot use
/// stays where it is, and the socket is not read meanwhile.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent of each other")]
pub(crate) struct Session {
    connection: Connection,
    incoming: Buffer,
    /// rustls has processed the records in this many bytes at the start of `incoming`. It still
    /// needs them for a handshake message that is not complete.
    processed: usize,
    /// rustls has seen this many bytes at the start of `incoming`. It must see them again: its own
    /// offsets point into them.
    seen: usize,
    /// rustls has more to do with what it has seen.
    is_stopped: bool,
    /// What did not fit into the reader's buffer, of one record: the content and how much of it was
    /// read.
    rest: (Vec<u8>, usize),
    outgoing: Buffer,
    is_handshaking: bool,
    peer_has_closed: bool,
    has_closed: bool,
    /// Bytes received so far.
    received: u64,
}

enum Connection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

impl Connection {
    fn common(&self) -> &CommonState {
        match self {
            Self::Client(client) => client,
            Self::Server(server) => server,
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Client(_) => "Client",
            Self::Server(_) => "Server",
        };
        f.debug_tuple(name).field(&self.common().protocol_version()).finish()
    }
}

/// What [`Session`] did.
#[derive(Debug, PartialEq)]
pub(crate) enum Progress {
    /// This many bytes were decrypted or encrypted. A read of 0 bytes continues: call it again.
    Moved(usize),
    /// More ciphertext is needed to read, or space for ciphertext to write.
    Blocked,
    /// The peer has sent `close_notify`, after all its data. Returned once.
    Closed,
}

/// What to do once TLS has processed the input.
enum Task<'a> {
    Read(&'a mut [u8]),
    Write(&'a [&'a [u8]]),
    Close,
}

impl Session {
    pub(crate) fn client(connection: UnbufferedClientConnection, pool: &Pool) -> Self {
        Self::new(Connection::Client(connection), pool)
    }

    pub(crate) fn server(connection: UnbufferedServerConnection, pool: &Pool) -> Self {
        Self::new(Connection::Server(connection), pool)
    }

    fn new(connection: Connection, pool: &Pool) -> Self {
        Self {
            connection,
            incoming: Buffer::new(pool.clone()),
            processed: 0,
            seen: 0,
            is_stopped: false,
            rest: (Vec::new(), 0),
            outgoing: Buffer::new(pool.clone()),
            is_handshaking: true,
            peer_has_closed: false,
            has_closed: false,
            received: 0,
        }
    }

    /// The space for ciphertext of the peer.
    pub(crate) fn receive_buf(&mut self) -> &mut [u8] {
        self.incoming.spare(MAX_RECORD)
    }

    /// Records that `n` bytes were received into [`receive_buf`](Self::receive_buf).
    pub(crate) fn received(&mut self, n: usize) {
        self.incoming.commit(n);
        self.received += n as u64;
    }

    pub(crate) fn bytes_received(&self) -> u64 {
        self.received
    }

    /// Whether [`receive_buf`](Self::receive_buf) has space.
    pub(crate) fn can_receive(&self) -> bool {
        !self.incoming.is_full()
    }

    /// The most bytes that [`receive_buf`](Self::receive_buf) holds.
    pub(crate) fn receive_limit(&self) -> usize {
        self.incoming.len() + self.incoming.free()
    }

    /// Whether [`read`](Self::read) can make progress without more ciphertext.
    pub(crate) fn has_input(&self) -> bool {
        let has_more = self.is_stopped || self.incoming.len() > self.seen;
        self.has_plaintext() || has_more && !self.peer_has_closed
    }

    /// Whether decrypted bytes are pending for the reader.
    pub(crate) fn has_plaintext(&self) -> bool {
        !self.rest.0.is_empty()
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.is_handshaking
    }

    pub(crate) fn peer_has_closed(&self) -> bool {
        self.peer_has_closed
    }

    /// Whether `close_notify` was encrypted.
    pub(crate) fn has_closed(&self) -> bool {
        self.has_closed
    }

    /// What rustls knows about the connection: version, cipher suite, certificates of the peer,
    /// application protocol.
    pub(crate) fn common(&self) -> &CommonState {
        self.connection.common()
    }

    /// The ciphertext that is pending for the peer.
    pub(crate) fn pending(&self) -> &[u8] {
        self.outgoing.bytes()
    }

    /// Records that `n` bytes of [`pending`](Self::pending) were sent.
    pub(crate) fn sent(&mut self, n: usize) {
        self.outgoing.consume(n);
    }

    /// Discards all pending output.
    pub(crate) fn discard_pending(&mut self) {
        self.outgoing.clear();
    }

    /// Discards all input, after a failure.
    pub(crate) fn discard_input(&mut self) {
        self.incoming.clear();
        (self.processed, self.seen, self.is_stopped) = (0, 0, false);
        self.rest = (Vec::new(), 0);
    }

    /// Gives empty buffers back to the pool.
    pub(crate) fn release(&mut self) {
        self.incoming.release();
        self.outgoing.release();
        if !self.has_plaintext() {
            self.rest = (Vec::new(), 0);
        }
    }

    /// Continues the handshake, and decrypts one record into `buf`.
    ///
    /// # Errors
    /// The peer broke the protocol. [`pending`](Self::pending) ends with an alert for it.
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> Result<Progress, Error> {
        let (rest, start) = &mut self.rest;
        if !rest.is_empty() {
            let n = buf.len().min(rest.len() - *start);
            buf[..n].copy_from_slice(&rest[*start..*start + n]);
            *start += n;
            if *start == rest.len() {
                rest.clear();
                *start = 0;
            }
            return Ok(Progress::Moved(n));
        }
        self.process(Task::Read(buf))
    }

    /// Encrypts from the start of `bufs`, as much as there is space for.
    ///
    /// # Errors
    /// The keys are exhausted (RFC 8446, section 5.5).
    pub(crate) fn write(&mut self, bufs: &[&[u8]]) -> Result<Progress, Error> {
        self.process(Task::Write(bufs))
    }

    /// Encrypts `close_notify`, once, if there is space.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) fn close(&mut self) -> Result<Progress, Error> {
        self.process(Task::Close)
    }

    /// Lets rustls see one more record, or all of an incomplete one: it checks the header.
    fn see_next_record(&mut self) {
        let next = &self.incoming.bytes()[self.processed..];
        let len = match next {
            [_, _, _, high, low, ..] => HEADER + usize::from(u16::from_be_bytes([*high, *low])),
            _ => HEADER,
        };
        self.seen = self.processed + len.min(next.len());
        if len <= next.len() {
            self.processed = self.seen;
        }
    }

    fn process(&mut self, task: Task<'_>) -> Result<Progress, Error> {
        match &mut self.connection {
            Connection::Client(_) => self.process_with(task, |connection, input| {
                let Connection::Client(client) = connection else { unreachable!() };
                client.process_tls_records(input)
            }),
            Connection::Server(_) => self.process_with(task, |connection, input| {
                let Connection::Server(server) = connection else { unreachable!() };
                server.process_tls_records(input)
            }),
        }
    }

    fn process_with<Data, F>(&mut self, mut task: Task<'_>, process: F) -> Result<Progress, Error>
    where
        F: for<'c, 'i> Fn(&'c mut Connection, &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Data>,
    {
        let mut error = None;
        loop {
            // A reader needs only space for an alert: a peer that reads nothing is still heard.
            let is_short = matches!(task, Task::Read(_)) && !self.is_handshaking;
            if self.outgoing.free() < if is_short { CONTROL } else { MAX_RECORD } {
                return error.map_or(Ok(Progress::Blocked), Err);
            }
            // A write processes no new input, because the reader may not want it yet.
            if matches!(task, Task::Read(_)) && !self.is_stopped {
                self.see_next_record();
            }
            let has_next = matches!(task, Task::Read(_)) && self.incoming.len() > self.seen;
            let input = &mut self.incoming.bytes_mut()[..self.seen];
            let UnbufferedStatus { discard, state } = process(&mut self.connection, input);
            self.is_stopped = false;
            let progress = match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    let encoded = data.encode(self.outgoing.spare(MAX_RECORD));
                    self.outgoing.commit(encoded.map_err(general)?);
                    self.is_stopped = true;
                    None
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done(); // it is in `outgoing`
                    self.is_stopped = true;
                    None
                }
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    let buf = match &mut task {
                        Task::Read(buf) => &mut **buf,
                        Task::Write(_) | Task::Close => &mut [],
                    };
                    let mut moved = 0;
                    while let Some(record) = traffic.next_record() {
                        let payload = record?.payload;
                        let n = payload.len().min(buf.len() - moved);
                        buf[moved..moved + n].copy_from_slice(&payload[..n]);
                        moved += n;
                        self.rest.0.extend_from_slice(&payload[n..]);
                    }
                    matches!(task, Task::Read(_)).then_some(Progress::Moved(moved))
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.peer_has_closed = true;
                    matches!(task, Task::Read(_)).then_some(Progress::Closed)
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => {
                    (!has_next).then_some(Progress::Blocked)
                }
                Ok(ConnectionState::WriteTraffic(traffic)) => match task {
                    Task::Read(_) => (!has_next).then_some(Progress::Blocked),
                    Task::Write(bufs) => Some(encrypt(traffic, bufs, &mut self.outgoing)?),
                    Task::Close => {
                        close(traffic, &mut self.outgoing)?;
                        self.has_closed = true;
                        Some(Progress::Moved(0))
                    }
                },
                Ok(state) => Some(Err(Error::General(format!("unexpected state {state:?}")))?),
                Err(cause) => {
                    error = Some(cause);
                    self.is_stopped = true; // once more, for the alert
                    None
                }
            };
            self.incoming.consume(discard);
            self.processed -= discard;
            self.seen -= discard;
            if let Some(error) = error.take_if(|_| !self.connection.common().wants_write()) {
                return Err(error);
            }
            // Not before all of the handshake is in `outgoing`. A server may be able to send before
            // it has authenticated the client.
            let is_done = !self.is_stopped && !self.connection.common().is_handshaking();
            self.is_handshaking &= !is_done;
            if let Some(progress) = progress {
                return Ok(progress);
            }
        }
    }
}

/// Encrypts from the start of `bufs`, as much as `outgoing` has space for. Short buffers share a
/// record.
fn encrypt<Data>(
    mut traffic: WriteTraffic<'_, Data>,
    bufs: &[&[u8]],
    outgoing: &mut Buffer,
) -> Result<Progress, Error> {
    let mut moved = 0;
    let mut bufs = bufs.iter().copied();
    let mut next = bufs.next();
    while let Some(buf) = next {
        let spare = outgoing.spare(MAX_RECORD);
        let encrypted = if buf.len() >= MAX_PLAINTEXT || bufs.len() == 0 {
            let n = buf.len().min(MAX_PLAINTEXT);
            if spare.len() < n + OVERHEAD + 2 * CONTROL {
                break;
            }
            next = Some(&buf[n..]).filter(|buf| !buf.is_empty()).or_else(|| bufs.next());
            moved += n;
            traffic.encrypt(&buf[..n], spare)
        } else {
            // Short buffers are collected in the space behind the record that they will be in.
            if spare.len() < MAX_RECORD + MAX_PLAINTEXT {
                break;
            }
            let (record, plaintext) = spare.split_at_mut(MAX_RECORD);
            let mut collected = 0;
            while let Some(buf) = next
                && collected < MAX_PLAINTEXT
            {
                let n = buf.len().min(MAX_PLAINTEXT - collected);
                plaintext[collected..collected + n].copy_from_slice(&buf[..n]);
                collected += n;
                next = Some(&buf[n..]).filter(|buf| !buf.is_empty()).or_else(|| bufs.next());
            }
            moved += collected;
            traffic.encrypt(&plaintext[..collected], record)
        };
        match encrypted {
            Ok(n) => outgoing.commit(n),
            Err(EncryptError::EncryptExhausted) => return Err(Error::EncryptError),
            Err(error @ EncryptError::InsufficientSize(_)) => return Err(general(error)),
        }
    }
    Ok(if moved > 0 { Progress::Moved(moved) } else { Progress::Blocked })
}

fn close<Data>(mut traffic: WriteTraffic<'_, Data>, outgoing: &mut Buffer) -> Result<(), Error> {
    let encrypted = traffic.queue_close_notify(outgoing.spare(MAX_RECORD));
    outgoing.commit(encrypted.map_err(general)?);
    Ok(())
}

/// An error that this module prevents.
#[expect(clippy::needless_pass_by_value, reason = "it is passed to `map_err`")]
fn general(error: impl ToString) -> Error {
    Error::General(error.to_string())
}

/// The longest content of a record, in bytes (RFC 8446, section 5.1).
pub(crate) const MAX_PLAINTEXT: usize = 1 << 14;
/// The header of a record, in bytes.
pub(crate) const HEADER: usize = 5;
/// The longest record, in bytes: 2,048 more in TLS 1.2 (RFC 5246, section 6.2.3), and a header.
const MAX_RECORD: usize = MAX_PLAINTEXT + 2048 + HEADER;
/// The most bytes by which encryption makes a record longer: header, nonce, tag and content type.
const OVERHEAD: usize = HEADER + 8 + 16 + 1;
/// Space for what TLS sends between two writes after the handshake, in bytes: alerts and a key
/// update, at most 32 each. A write leaves this much twice: it can be preceded by a key update.
const CONTROL: usize = 128;
/// The smallest buffer: space for a record, and for a record's content behind it.
pub(crate) const MIN_BUFFER: usize = MAX_RECORD + MAX_PLAINTEXT;
