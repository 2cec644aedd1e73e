//! The time that the codec and the server machine of `message` take, without a socket.
//!
//! ```text
//! cargo bench -p wirestate-core --bench message
//! cargo bench -p wirestate-core --bench message -- golden
//! ```
//!
//! The golden request has 146 bytes: a length prefix of 2, a header of 103, a content of 41. The
//! client in Real Python's tutorial sends it, <https://realpython.com/python-sockets/>.
//!
//! | benchmark | one iteration |
//! |---|---|
//! | `golden/decoder` | a [`Decoder`] finds header, content and end of the request |
//! | `golden/inbox` | the request is copied to an [`Inbox`], which returns it as a message |
//! | `golden/encode` | a [`Message`] is appended to a vector that has room |
//! | `golden/both` | `inbox`, then that message is encoded; goal: **at most 333 ns** |
//! | `header/read` | [`Header::from_json`] of the 103 bytes |
//! | `header/write` | [`Header::encode`] of the same header to a vector that has room |
//! | `server/constant` | one of 16 requests in one read is answered with a constant |
//!
//! [`drive::deliver`] passes input to a server's machine and [`drive::collect_into`] takes its
//! output. Both copy where a kernel would. The output of each case is checked before it is
//! measured.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use wirestate_core::{
    Instant, Machine,
    buffer::Pool,
    drive,
    message::{
        ByteOrder, Config, DecodeEvent, Decoder, FrameLimits, Header, Inbox, Message, Server,
        service,
    },
};

const GOLDEN: &[u8; 146] = b"\0g{\"byteorder\": \"little\", \"content-type\": \"text/json\", \
    \"content-encoding\": \"utf-8\", \"content-length\": 41}\
    {\"action\": \"search\", \"value\": \"morpheus\"}";
/// The length of its length prefix and its header, in bytes.
const HEAD: usize = 105;
/// The number of requests in one read.
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

    let mut decoder = Decoder::new(FrameLimits::default());
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

/// The content length that the header declares, the content, and the number of ends.
fn events<'i>(decoder: &mut Decoder, mut input: &'i [u8]) -> (u64, &'i [u8], u32) {
    let whole = input;
    let (mut declared, mut content, mut ends) = (0, &whole[..0], 0);
    loop {
        let before = whole.len() - input.len();
        match decoder.decode(&mut input).expect("the input is a frame") {
            Some(DecodeEvent::Header(header)) => declared = header.content_length,
            Some(DecodeEvent::Content(bytes)) => content = &whole[before..before + bytes.len()],
            Some(DecodeEvent::End) => ends += 1,
            None => return (declared, content, ends),
        }
    }
}

fn inbox() -> Inbox {
    let Config { frame_limits, buffer, .. } = Config::default();
    Inbox::new(frame_limits, Pool::new(buffer.get(), 1)).expect("the buffer is large enough")
}

fn receive<'a>(inbox: &'a mut Inbox, bytes: &[u8]) -> Message<'a> {
    inbox.spare()[..bytes.len()].copy_from_slice(bytes);
    inbox.commit(bytes.len());
    inbox.next_message().expect("the input is a frame").expect("the frame is complete")
}

fn encode(message: &Message<'_>, frame: &mut Vec<u8>) {
    frame.clear();
    message.encode(frame).expect("the header is short");
}

fn header(criterion: &mut Criterion) {
    let json = &GOLDEN[2..HEAD];
    let header = Header::from_json(json).expect("the input is a header");
    let mut group = criterion.benchmark_group("header");
    group.throughput(Throughput::Elements(1));
    group.bench_function("read", |bencher| {
        bencher.iter(|| Header::from_json(black_box(json)).expect("the input is a header"));
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
    header.encode(head).expect("the header is short");
}

fn server(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("server");
    group.throughput(Throughput::Elements(PIPELINED as u64));

    let constant = service::function(|request| {
        black_box(request);
        Message::json(REPLY)
    });
    let mut pipelined = Pipelined::new(Server::with_default_config(constant).machine(NOW));
    group.bench_function("constant", |bencher| bencher.iter(|| pipelined.answer()));
    group.finish();
}

/// A machine that answers the same requests repeatedly.
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

    /// Answers the requests. Returns the length of the replies.
    fn answer(&mut self) -> usize {
        let mut requests = black_box(&self.requests[..]);
        drive::deliver(&mut self.machine, &mut requests, NOW);
        assert!(requests.is_empty(), "the machine has stopped reading");
        drive::collect_into(&mut self.machine, &mut self.replies, NOW)
    }
}
