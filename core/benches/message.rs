//! What the codec and the server's machine of `message` cost by themselves, without a socket.
//!
//! ```text
//! cargo bench -p wirestate-core --bench message
//! cargo bench -p wirestate-core --bench message -- golden
//! ```
//!
//! The golden request is one of 146 bytes as a client in wide use sends it: 2 of length, a header
//! of 103, a content of 41.
//!
//! | figure | what happens once for each element |
//! |---|---|
//! | `golden/decoder` | a [`Decoder`] finds header, content and end in the request's bytes |
//! | `golden/inbox` | the bytes are copied to an [`Inbox`], as a read would, and taken as a message |
//! | `golden/encode` | a [`Message`] is appended to a vector that has room |
//! | `golden/both` | `inbox`, and the message that came is encoded: **at most 333 ns**, 3 million a second |
//! | `header/read` | [`Header::from_json`] of the 103 bytes |
//! | `header/write` | [`Header::encode`] of the same: with its two bytes of length, to a vector that has room |
//! | `server/constant` | one of 16 requests that came in one read is answered with a constant |
//!
//! A server's machine is fed by [`drive::feed`] and emptied by [`drive::collect_into`], which copy
//! where a kernel would. Every one is tried once, and what comes out compared, before it is
//! measured.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use wirestate_core::{
    Instant, Machine,
    buffer::Pool,
    drive,
    message::{ByteOrder, Config, Decoder, Event, Header, Inbox, Limits, Message, Server, service},
};

const GOLDEN: &[u8; 146] = b"\0g{\"byteorder\": \"little\", \"content-type\": \"text/json\", \
    \"content-encoding\": \"utf-8\", \"content-length\": 41}\
    {\"action\": \"search\", \"value\": \"morpheus\"}";
/// Where its header ends and its content begins.
const HEAD: usize = 105;
/// Requests that come in one read.
const PIPELINED: usize = 16;
const REPLY: &str = r#"{"result": "Shaper of dreams, son of sleep."}"#;
const NOW: Instant = Instant::EPOCH;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    golden(&mut criterion);
    header(&mut criterion);
    server(&mut criterion);
    criterion.final_summary();
}

fn golden(criterion: &mut Criterion) {
    let message = Message { byteorder: ByteOrder::Little, ..Message::json(&GOLDEN[HEAD..]) };
    let mut group = criterion.benchmark_group("golden");
    group.throughput(Throughput::Elements(1));

    let mut decoder = Decoder::new(Limits::default());
    assert_eq!(events(&mut decoder, GOLDEN), (41, &GOLDEN[HEAD..], 1));
    group.bench_function("decoder", |bencher| {
        bencher.iter(|| events(&mut decoder, black_box(GOLDEN)).1.len());
    });

    let mut inbox = inbox();
    assert_eq!(receive(&mut inbox, GOLDEN), message);
    group.bench_function("inbox", |bencher| {
        bencher.iter(|| black_box(receive(&mut inbox, black_box(GOLDEN))).content.len());
    });

    let mut frame = Vec::new();
    encode(&message, &mut frame);
    assert_eq!(frame, GOLDEN);
    group.bench_function("encode", |bencher| {
        bencher.iter(|| encode(black_box(&message), black_box(&mut frame)));
    });

    group.bench_function("both", |bencher| {
        bencher.iter(|| {
            let message = receive(&mut inbox, black_box(GOLDEN));
            encode(black_box(&message), black_box(&mut frame));
        });
    });
    group.finish();
}

/// The content's length by the header, the content, and how many frames ended.
fn events<'i>(decoder: &mut Decoder, mut input: &'i [u8]) -> (u64, &'i [u8], u32) {
    let whole = input;
    let (mut declared, mut content, mut ends) = (0, &whole[..0], 0);
    loop {
        let before = whole.len() - input.len();
        match decoder.decode(&mut input).expect("it is a frame") {
            Some(Event::Header(header)) => declared = header.content_length,
            Some(Event::Content(bytes)) => content = &whole[before..before + bytes.len()],
            Some(Event::End) => ends += 1,
            None => return (declared, content, ends),
        }
    }
}

fn inbox() -> Inbox {
    let Config { limits, buffer, .. } = Config::default();
    Inbox::new(limits, Pool::new(buffer.get(), 1))
}

fn receive<'a>(inbox: &'a mut Inbox, bytes: &[u8]) -> Message<'a> {
    inbox.spare()[..bytes.len()].copy_from_slice(bytes);
    inbox.commit(bytes.len());
    inbox.take().expect("it is a frame").expect("it is whole")
}

fn encode(message: &Message<'_>, frame: &mut Vec<u8>) {
    frame.clear();
    message.encode(frame).expect("its header is short");
}

fn header(criterion: &mut Criterion) {
    let json = &GOLDEN[2..HEAD];
    let header = Header::from_json(json).expect("it is a header");
    let mut group = criterion.benchmark_group("header");
    group.throughput(Throughput::Elements(1));
    group.bench_function("read", |bencher| {
        bencher.iter(|| Header::from_json(black_box(json)).expect("it is a header"));
    });
    let mut head = Vec::new();
    write(&header, &mut head);
    assert_eq!(head, &GOLDEN[..HEAD]);
    group.bench_function("write", |bencher| {
        bencher.iter(|| write(black_box(&header), black_box(&mut head)));
    });
    group.finish();
}

fn write(header: &Header<'_>, head: &mut Vec<u8>) {
    head.clear();
    header.encode(head).expect("it is short");
}

fn server(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("server");
    group.throughput(Throughput::Elements(PIPELINED as u64));

    let constant = service::function(|request| {
        black_box(request);
        Message::json(REPLY)
    });
    let mut pipelined = Pipelined::new(Server::new(Config::default(), constant).machine(NOW));
    group.bench_function("constant", |bencher| bencher.iter(|| pipelined.answer()));
    group.finish();
}

/// A machine that is asked for the same as often as it has answered.
struct Pipelined<M> {
    machine: M,
    requests: Vec<u8>,
    replies: Vec<u8>,
}

impl<M: Machine> Pipelined<M> {
    fn new(machine: M) -> Self {
        let requests = GOLDEN.repeat(PIPELINED);
        let mut pipelined = Self { machine, requests, replies: vec![0; 64 * 1024] };
        let n = pipelined.answer();
        let mut reply = Vec::new();
        encode(&Message::json(REPLY), &mut reply);
        assert_eq!(pipelined.replies[..n], reply.repeat(PIPELINED));
        pipelined
    }

    /// Returns how many bytes of replies there are.
    fn answer(&mut self) -> usize {
        let mut requests = black_box(&self.requests[..]);
        drive::deliver(&mut self.machine, &mut requests, NOW);
        assert!(requests.is_empty(), "all of it was taken");
        drive::collect_into(&mut self.machine, &mut self.replies, NOW)
    }
}
