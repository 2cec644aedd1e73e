/* Wirestate: network protocols as state machines without IO.
 *
 * Generated from the Rust sources in core/c-abi/src. Do not edit.
 *
 * A machine is one side of one connection, without the socket. Your program owns sockets, threads,
 * the clock and the event loop. It asks the machine what it wants, reads and writes, and reports
 * what has happened. Nothing is called back.
 *
 *   wirestate_wakes_new      once for each event loop
 *   wirestate_server_new     once for each server
 *   wirestate_server_accept  for each connection
 *   ...                      turns, until the machine has ended
 *   wirestate_machine_free   for each connection
 *
 * A turn, with `now` as read after the last wait. Events are reported by wirestate_machine_handle:
 *
 *   1. wirestate_machine_poll_shared.
 *   2. wirestate_machine_wants. If it has
 *      WIRESTATE_WANT_WRITE: wirestate_machine_write_bufs, writev(2). Report
 *        WIRESTATE_EVENT_WRITTEN with the number of bytes, or WIRESTATE_EVENT_WRITE_ERROR with
 *        errno. Report nothing if the call would block.
 *      WIRESTATE_WANT_FINISH: shutdown(2) with SHUT_WR. Report WIRESTATE_EVENT_FINISHED.
 *      WIRESTATE_WANT_RESET: report WIRESTATE_EVENT_FINISHED.
 *   3. wirestate_machine_wants once more. If it has
 *      WIRESTATE_WANT_READ: wirestate_machine_read_buf, read(2). Report WIRESTATE_EVENT_READ with
 *        the number of bytes, WIRESTATE_EVENT_EOF if that is 0, or WIRESTATE_EVENT_READ_ERROR with
 *        errno. Report nothing if the call would block.
 *
 * Take turns until poll_shared returns false and there is nothing to report. Let other connections
 * have theirs after about 16. Then:
 *
 *   1. Take the machine's messages (wirestate_machine_next_message) until there are no more.
 *   2. If its deadline has passed, report WIRESTATE_EVENT_TIMEOUT, and take turns again.
 *   3. If it has ended (WIRESTATE_ENDED), close the socket: by an RST (SO_LINGER of 0 seconds), if
 *      wirestate_machine_must_reset returns true. Free the machine.
 *   4. Otherwise report WIRESTATE_EVENT_RELEASE, so that it holds no buffer while you wait.
 *   5. Take turns of the machines whose tokens wirestate_wakes_next returns.
 *   6. Wait for what the machines want, and for the earliest deadline. Take a socket from which
 *      nothing is wanted out of the set, because epoll(7) reports its reset again and again.
 *
 * core/c-abi/examples/epoll.c is such a loop.
 *
 * Units: sizes are in bytes. Times are in nanoseconds, of a clock that does not go backwards
 * (CLOCK_MONOTONIC). All machines that share a server use the same clock.
 *
 * Ownership: an object that a function stores, and a message that arrives, is yours until you pass
 * it to its _free function. Objects can be freed in any order. A slice or buffer that a function
 * returns belongs to the object; the function says until when it is valid. Bytes that you pass are
 * copied or used during the call.
 *
 * Errors: a call that can fail returns a wirestate_result. The failure of a connection is none: the
 * machine ends with a reason. Required pointers are checked for NULL, events for being legal, and
 * constants, which are passed as uint32_t, for being known.
 *
 * Threads: nothing is global. Any thread may use a wirestate_server, a wirestate_wakes and a
 * wirestate_tls at any time. Other objects may move between threads, but only one thread uses each
 * at a time. A wake-up by another thread does not interrupt your wait: see
 * wirestate_wakes_interrupt.
 */


#ifndef WIRESTATE_H
#define WIRESTATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * No deadline, and the value that switches a timeout off.
 */
#define WIRESTATE_NEVER UINT64_MAX

/**
 * The machine has room for input: read from the socket.
 */
#define WIRESTATE_WANT_READ 1

/**
 * The machine has output: write it.
 */
#define WIRESTATE_WANT_WRITE 2

/**
 * All output was written: send a FIN (`shutdown(fd, SHUT_WR)`).
 */
#define WIRESTATE_WANT_FINISH 4

/**
 * Report `WIRESTATE_EVENT_FINISHED`: the machine ends, and `wirestate_machine_must_reset` returns
 * true. So the close of the socket sends an RST.
 */
#define WIRESTATE_WANT_RESET 8

/**
 * The machine has ended: close the socket, and free the machine.
 */
#define WIRESTATE_ENDED 16

/**
 * What a call returns.
 */
enum wirestate_result
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * The call has succeeded.
     */
    WIRESTATE_RESULT_OK = 0,
    /**
     * A pointer that is required is NULL.
     */
    WIRESTATE_RESULT_NULL = -1,
    /**
     * The machine does not want this event in its state: see the table of events. Nothing has
     * changed.
     */
    WIRESTATE_RESULT_STATE = -2,
    /**
     * More bytes than the last read buffer or output had, or none at all. Nothing has changed.
     */
    WIRESTATE_RESULT_LENGTH = -3,
    /**
     * A value that cannot be: an unknown constant, or a text that is not UTF-8.
     */
    WIRESTATE_RESULT_VALUE = -4,
    /**
     * A setting that cannot work. The text says which, with its limit.
     */
    WIRESTATE_RESULT_CONFIG = -5,
    /**
     * The object is of another kind: an upstream needs a fan-out server, a request a client.
     */
    WIRESTATE_RESULT_KIND = -6,
    /**
     * As many requests as the limit wait for replies, or their replies were not taken.
     */
    WIRESTATE_RESULT_BUSY = -7,
    /**
     * The connection has ended, or accepts no more requests.
     */
    WIRESTATE_RESULT_ENDED = -8,
    /**
     * The buffer is too small. Nothing was written; the required size is returned.
     */
    WIRESTATE_RESULT_BUFFER = -9,
    /**
     * The header of the message would be longer than 65,535 bytes.
     */
    WIRESTATE_RESULT_HEADER = -10,
    /**
     * The input is not a message. The decoder has the text.
     */
    WIRESTATE_RESULT_MALFORMED = -11,
    /**
     * A bug in Wirestate: the call has panicked, and printed where to standard error. The machine
     * now wants a reset.
     */
    WIRESTATE_RESULT_PANIC = -12,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum wirestate_result wirestate_result;
#else
typedef int32_t wirestate_result;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Whose fault an end was.
 */
enum wirestate_fault
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * The machine has no reason yet.
     */
    WIRESTATE_FAULT_OPEN = 0,
    /**
     * Nobody's: a clean end.
     */
    WIRESTATE_FAULT_NONE = 1,
    /**
     * The peer broke the protocol.
     */
    WIRESTATE_FAULT_PEER = 2,
    /**
     * The peer hit a limit.
     */
    WIRESTATE_FAULT_LIMIT = 3,
    /**
     * A deadline passed.
     */
    WIRESTATE_FAULT_TIME = 4,
    /**
     * The end was requested.
     */
    WIRESTATE_FAULT_REQUESTED = 5,
    /**
     * The connection was lost.
     */
    WIRESTATE_FAULT_LOST = 6,
    /**
     * A bug of Wirestate.
     */
    WIRESTATE_FAULT_BUG = 7,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum wirestate_fault wirestate_fault;
#else
typedef uint32_t wirestate_fault;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What a decoder has found.
 */
enum wirestate_decoded_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * The input is consumed. Pass more.
     */
    WIRESTATE_DECODED_KIND_NEEDS_INPUT = 0,
    /**
     * The header of a message.
     */
    WIRESTATE_DECODED_KIND_HEADER = 1,
    /**
     * The next bytes of the content, at least one. An empty content has none.
     */
    WIRESTATE_DECODED_KIND_CONTENT = 2,
    /**
     * The end of the message.
     */
    WIRESTATE_DECODED_KIND_END = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum wirestate_decoded_kind wirestate_decoded_kind;
#else
typedef uint32_t wirestate_decoded_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * The order of the bytes of integers in a content.
 */
enum wirestate_byte_order
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * The order of this computer. Received messages never have it.
     */
    WIRESTATE_BYTE_ORDER_NATIVE = 0,
    /**
     * The least significant byte first.
     */
    WIRESTATE_BYTE_ORDER_LITTLE = 1,
    /**
     * The most significant byte first.
     */
    WIRESTATE_BYTE_ORDER_BIG = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum wirestate_byte_order wirestate_byte_order;
#else
typedef uint32_t wirestate_byte_order;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Something that has happened to a connection, for `wirestate_machine_handle`.
 */
enum wirestate_event
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * The value is the number of bytes that were received at the start of the read buffer: at
     * least 1. Legal directly after `wirestate_machine_read_buf`.
     */
    WIRESTATE_EVENT_READ = 0,
    /**
     * The peer has sent a FIN: a read has returned 0. Legal while the machine wants to read.
     */
    WIRESTATE_EVENT_EOF = 1,
    /**
     * The value is the number of bytes that the socket has accepted from the start of the output:
     * at least 1. Legal directly after `wirestate_machine_write_bufs`.
     */
    WIRESTATE_EVENT_WRITTEN = 2,
    /**
     * The FIN or the RST was sent. Legal while the machine wants that.
     */
    WIRESTATE_EVENT_FINISHED = 3,
    /**
     * A read has failed; the value is `errno`, but neither `EAGAIN` nor `EINTR`. Legal while the
     * machine wants to read.
     */
    WIRESTATE_EVENT_READ_ERROR = 4,
    /**
     * A write or a FIN has failed; the value is `errno`, but neither `EAGAIN` nor `EINTR`. Legal
     * once, until the FIN was sent, except while the machine wants a reset.
     */
    WIRESTATE_EVENT_WRITE_ERROR = 5,
    /**
     * The deadline of the machine has passed. The value is the number of bytes written that the
     * peer has not acknowledged (`SIOCOUTQ` on Linux), or 0 if you do not know it: a write
     * deadline then counts what the socket accepts as progress. Always legal; without effect
     * before the deadline. Try to read first: input that arrived in time comes before a deadline.
     */
    WIRESTATE_EVENT_TIMEOUT = 6,
    /**
     * Ends the connection gracefully: pending output is sent, then a FIN. Always legal. To abort,
     * free the machine.
     */
    WIRESTATE_EVENT_SHUT_DOWN = 7,
    /**
     * The loop is about to wait, and a read would block: the machine returns an empty buffer to
     * its server. Always legal; changes nothing else.
     */
    WIRESTATE_EVENT_RELEASE = 8,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum wirestate_event wirestate_event;
#else
typedef uint32_t wirestate_event;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Where one message of a fan-out ends and the next begins.
 */
enum wirestate_framing
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Every message has the same size.
     */
    WIRESTATE_FRAMING_FIXED = 0,
    /**
     * A message ends with a delimiter, which is part of it.
     */
    WIRESTATE_FRAMING_DELIMITED = 1,
    /**
     * A message begins with its length in four bytes, big-endian, without these four bytes.
     */
    WIRESTATE_FRAMING_LENGTH_PREFIXED = 2,
    /**
     * There are no messages: bytes are passed on as they arrive.
     */
    WIRESTATE_FRAMING_NONE = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum wirestate_framing wirestate_framing;
#else
typedef uint32_t wirestate_framing;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What happens to a subscriber that falls out of the window.
 */
enum wirestate_lag_policy
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * It is reset.
     */
    WIRESTATE_LAG_POLICY_DISCONNECT = 0,
    /**
     * It skips messages.
     */
    WIRESTATE_LAG_POLICY_SKIP = 1,
    /**
     * The upstream is paused, without limit.
     */
    WIRESTATE_LAG_POLICY_BLOCK = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum wirestate_lag_policy wirestate_lag_policy;
#else
typedef uint32_t wirestate_lag_policy;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What a server does.
 */
enum wirestate_server_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Sends back every byte that it receives, in order, also after the peer's FIN.
     */
    WIRESTATE_SERVER_KIND_ECHO = 0,
    /**
     * Answers requests: messages with a JSON header. Your program gives the replies.
     */
    WIRESTATE_SERVER_KIND_MESSAGE = 1,
    /**
     * Sends the messages of one upstream to all subscribers.
     */
    WIRESTATE_SERVER_KIND_FANOUT = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum wirestate_server_kind wirestate_server_kind;
#else
typedef uint32_t wirestate_server_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * A setting. Sizes are in bytes, times in nanoseconds. `WIRESTATE_NEVER` switches a timeout off; 0
 * is refused.
 *
 * Later versions may add settings, never change a number.
 */
enum wirestate_setting
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Echo, message, client: the size of a connection's receive buffer. Default: 64 KiB; client:
     * 16 KiB.
     */
    WIRESTATE_SETTING_BUFFER_SIZE = 1,
    /**
     * Echo, message: how many unused buffers the server keeps. Default: 64.
     */
    WIRESTATE_SETTING_IDLE_BUFFERS = 2,
    /**
     * Echo: ends a connection that moves no byte for this long; default: 300 s. Message: one
     * without a request and without a pending reply; default: 60 s.
     */
    WIRESTATE_SETTING_IDLE_TIMEOUT = 3,
    /**
     * Echo, message, fan-out: how long a connection discards input after its FIN. Default: 2 s.
     */
    WIRESTATE_SETTING_LINGER_TIME = 4,
    /**
     * Echo, message, fan-out: how much input a connection discards after its FIN. Default: 16 MiB.
     */
    WIRESTATE_SETTING_LINGER_BYTES = 5,
    /**
     * Message, fan-out, client: resets a connection whose peer acknowledges no byte for this long
     * while output is pending. Default: 10 s.
     */
    WIRESTATE_SETTING_WRITE_TIMEOUT = 6,
    /**
     * Echo with a prefix: the most that one read receives. Default: 1,024.
     */
    WIRESTATE_SETTING_PREFIX_CHUNK = 10,
    /**
     * Message, client: the longest header. At most 65,535. Default: 4 KiB.
     */
    WIRESTATE_SETTING_MAX_HEADER = 20,
    /**
     * Message, client: the longest content. Default: 1 MiB.
     */
    WIRESTATE_SETTING_MAX_CONTENT = 21,
    /**
     * Message, client: the time for a header to arrive, from its first byte. Default: 5 s.
     */
    WIRESTATE_SETTING_HEADER_TIMEOUT = 22,
    /**
     * Message, client: the time for a whole message to arrive, from its first byte. Default: 30 s.
     */
    WIRESTATE_SETTING_CONTENT_TIMEOUT = 23,
    /**
     * Message, client: a message that arrives at this rate, in bytes per second, may take longer.
     * Default: 1,024.
     */
    WIRESTATE_SETTING_MIN_RATE = 24,
    /**
     * Message, client: the most requests of one connection that wait for replies. Default: 32.
     */
    WIRESTATE_SETTING_MAX_IN_FLIGHT = 25,
    /**
     * Message: how long the reply to a request may take. Default: 60 s.
     */
    WIRESTATE_SETTING_SERVICE_TIMEOUT = 26,
    /**
     * Message: 1 closes a connection after its first reply. Default: 0.
     */
    WIRESTATE_SETTING_ONE_SHOT = 27,
    /**
     * Message: the most bytes that the contents of 4 KiB or more of all connections take.
     * Default: 256 MiB.
     */
    WIRESTATE_SETTING_MAX_MEMORY = 28,
    /**
     * Client: the longest wait for the first byte of a reply. Default: 30 s.
     */
    WIRESTATE_SETTING_REPLY_TIMEOUT = 29,
    /**
     * Fan-out: a `wirestate_framing`. Default: fixed.
     */
    WIRESTATE_SETTING_FRAMING = 40,
    /**
     * Fan-out: the size of a message; with delimiters or length prefixes, of the longest one.
     * Default: 1,024.
     */
    WIRESTATE_SETTING_MESSAGE_SIZE = 41,
    /**
     * Fan-out with delimiters: the last byte of each message. Default: 10, a line feed.
     */
    WIRESTATE_SETTING_DELIMITER = 42,
    /**
     * Fan-out: how many bytes of the newest messages are kept for subscribers that are behind.
     * Default: 16 MiB.
     */
    WIRESTATE_SETTING_WINDOW = 43,
    /**
     * Fan-out: a `wirestate_lag_policy`. Default: disconnect.
     */
    WIRESTATE_SETTING_ON_LAG = 44,
    /**
     * Fan-out: how long the upstream may be paused for slow subscribers while others wait, in any
     * ten times this. 0: never. Default: 1 s.
     */
    WIRESTATE_SETTING_LAG_WAIT = 45,
    /**
     * Fan-out: resets the connection to an upstream that sends no byte for this long. Default:
     * off.
     */
    WIRESTATE_SETTING_UPSTREAM_IDLE_TIMEOUT = 46,
    /**
     * Fan-out: how many of the last messages a new subscriber gets first. Default: 0.
     */
    WIRESTATE_SETTING_REPLAY = 47,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum wirestate_setting wirestate_setting;
#else
typedef uint32_t wirestate_setting;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * The settings of a server or a client. What is not set has its default.
 */
typedef struct wirestate_config wirestate_config;

/**
 * Splits a stream of bytes into messages. It stores no content, so a content may be of any length.
 */
typedef struct wirestate_decoder wirestate_decoder;

/**
 * A message that has arrived: a request to a server, or a reply to a client. You own it.
 */
typedef struct wirestate_incoming wirestate_incoming;

/**
 * One side of one connection, without the socket.
 *
 * One thread at a time may use it. It may move to another thread; its wake-ups then stay in the
 * queue with which it was made.
 */
typedef struct wirestate_machine wirestate_machine;

/**
 * What the connections of one server share: settings, buffers, budgets, the log of a fan-out.
 *
 * Any thread may use it at any time.
 */
typedef struct wirestate_server wirestate_server;

/**
 * TLS 1.2 and 1.3 of a server or a client: certificates, and what connections share.
 *
 * Only in a library with the feature `tls`. Any thread may use it at any time.
 */
typedef struct wirestate_tls wirestate_tls;

/**
 * The queue of woken machines of one event loop.
 *
 * Every machine belongs to one, with a token that you choose: an index, or the address of your
 * connection. When the machine is woken, its token enters the queue, at most once.
 *
 * Any thread may use it at any time. It must outlive no machine: a machine whose queue was freed
 * is not woken.
 */
typedef struct wirestate_wakes wirestate_wakes;

/**
 * Bytes: a pointer and a length. The pointer may be NULL if the length is 0.
 *
 * On Unix it has the layout of `struct iovec`.
 */
typedef struct {
    /**
     * The first byte.
     */
    const uint8_t *data;
    /**
     * The number of bytes.
     */
    size_t len;
} wirestate_slice;

/**
 * A message: type, encoding and content, which are not terminated by NUL.
 */
typedef struct {
    /**
     * A `wirestate_byte_order`: the sender's.
     */
    uint32_t byte_order;
    /**
     * The type, in UTF-8. `text/json` is JSON; any other type is binary.
     */
    wirestate_slice content_type;
    /**
     * The character set of a text, or `binary`. In UTF-8.
     */
    wirestate_slice content_encoding;
    /**
     * The content.
     */
    wirestate_slice content;
} wirestate_message;

/**
 * The result of `wirestate_decoder_decode`.
 */
typedef struct {
    /**
     * A `wirestate_decoded_kind`.
     */
    uint32_t kind;
    /**
     * How many bytes of the input were consumed. Pass the rest with the next call.
     */
    size_t consumed;
    /**
     * Of a header: the length of the whole content. Otherwise 0.
     */
    uint64_t content_length;
    /**
     * Of a header: type and encoding, valid until the next call with this decoder. Of a content:
     * its next bytes, in the input. Otherwise empty.
     */
    wirestate_message message;
} wirestate_decoded;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Returns the text of a result code: static, in English, and terminated by NUL.
 */
const char *wirestate_result_text(int32_t code);

/**
 * Makes settings that all have their defaults.
 */
wirestate_result wirestate_config_new(wirestate_config **config);

/**
 * Sets a `wirestate_setting`. The value is checked when a server or client is made.
 *
 * `WIRESTATE_RESULT_VALUE`: this version does not know the setting.
 */
wirestate_result wirestate_config_set(wirestate_config *config, uint32_t setting, uint64_t value);

/**
 * Echo: sets a text to send in front of every received chunk (`WIRESTATE_SETTING_PREFIX_CHUNK`).
 * The text is copied. Default: none.
 */
wirestate_result wirestate_config_set_prefix(wirestate_config *config,
                                             const uint8_t *text,
                                             size_t len);

/**
 * Frees settings. Servers and clients have copies. NULL is ignored.
 */
void wirestate_config_free(wirestate_config *config);

/**
 * Makes a queue. Each event loop (each thread) needs one.
 */
wirestate_result wirestate_wakes_new(wirestate_wakes **wakes);

/**
 * Removes the next token from the queue: drive its machine. Returns false if there is none.
 *
 * Call it after you have driven machines, before you wait, until it returns false.
 */
bool wirestate_wakes_next(const wirestate_wakes *wakes, uint64_t *token);

/**
 * Whether to interrupt the wait of the loop that owns this queue, for example by `eventfd(2)`. The
 * library cannot do it, because it does no IO. Returns true once after tokens were added.
 *
 * Only for programs with several threads. Call it for the queue of every other loop after you have
 * driven machines that share a server with it, and after you have replied to requests.
 */
bool wirestate_wakes_interrupt(const wirestate_wakes *wakes);

/**
 * Frees the queue. NULL is ignored.
 */
void wirestate_wakes_free(wirestate_wakes *wakes);

/**
 * Makes a server of a `wirestate_server_kind`. `config` may be NULL, for the defaults.
 *
 * `WIRESTATE_RESULT_CONFIG`: a setting cannot work. Up to `error_size` bytes of `error`, which may
 * be NULL, say which, terminated by NUL.
 */
wirestate_result wirestate_server_new(uint32_t kind,
                                      const wirestate_config *config,
                                      wirestate_server **server,
                                      char *error,
                                      size_t error_size);

/**
 * Makes the machine of a connection that was accepted at `now`. For a fan-out it is a subscriber.
 * Free it before or after the server. Drive it at once.
 *
 * `token` is what `wirestate_wakes_next` returns when the machine is woken.
 */
wirestate_result wirestate_server_accept(const wirestate_server *server,
                                         const wirestate_wakes *wakes,
                                         uint64_t token,
                                         uint64_t now,
                                         wirestate_machine **machine);

/**
 * Makes the machine of a connection that was made to the upstream of a fan-out server at `now`. It
 * receives messages for all subscribers.
 *
 * To publish messages of your own, pass them to it with `wirestate_machine_receive`. One upstream
 * at a time: the messages of two would mix.
 *
 * `WIRESTATE_RESULT_KIND`: the server is no fan-out server.
 */
wirestate_result wirestate_upstream_new(const wirestate_server *server,
                                        const wirestate_wakes *wakes,
                                        uint64_t token,
                                        uint64_t now,
                                        wirestate_machine **machine);

/**
 * Makes the machine of a connection that was made to a message server at `now`. `config` may be
 * NULL, for the defaults. `error`: as in `wirestate_server_new`.
 */
wirestate_result wirestate_client_new(const wirestate_config *config,
                                      const wirestate_wakes *wakes,
                                      uint64_t token,
                                      uint64_t now,
                                      wirestate_machine **machine,
                                      char *error,
                                      size_t error_size);

/**
 * Frees a server. Its machines go on; a fan-out goes on while its machines exist. NULL is ignored.
 */
void wirestate_server_free(wirestate_server *server);

/**
 * What the machine wants now: a set of `WIRESTATE_WANT_READ` and so on, or `WIRESTATE_ENDED`. 0:
 * nothing until it is woken or its deadline passes.
 */
uint32_t wirestate_machine_wants(wirestate_machine *machine);

/**
 * Returns the buffer to receive into, at least one byte, and stores its length. NULL if the
 * machine does not want to read.
 *
 * It is valid until the next call with this machine, which is
 * `wirestate_machine_handle(..., WIRESTATE_EVENT_READ, n)` if bytes have arrived.
 */
uint8_t *wirestate_machine_read_buf(wirestate_machine *machine, size_t *len);

/**
 * Stores the next output as up to `max` slices, in order, and returns their number. 0 if the
 * machine has no output. More than 64 slices are never stored.
 *
 * They are valid until the next call with this machine, which is
 * `wirestate_machine_handle(..., WIRESTATE_EVENT_WRITTEN, n)` if the socket has accepted bytes.
 */
size_t wirestate_machine_write_bufs(wirestate_machine *machine,
                                    wirestate_slice *slices,
                                    size_t max);

/**
 * Reports a `wirestate_event` with its value; 0 where it has none. It may change what every other
 * function returns.
 *
 * `now` is the time in nanoseconds since an epoch of your choice, of a clock that does not go
 * backwards (`CLOCK_MONOTONIC`): the same for all machines that share a server.
 *
 * - `WIRESTATE_RESULT_STATE`, `WIRESTATE_RESULT_LENGTH`, `WIRESTATE_RESULT_VALUE`: the event is
 *   illegal. The machine has not seen it. It is a bug of your loop.
 * - `WIRESTATE_RESULT_PANIC`: the machine wants a reset.
 */
wirestate_result wirestate_machine_handle(wirestate_machine *machine,
                                          uint64_t now,
                                          uint32_t event,
                                          uint64_t value);

/**
 * Lets the machine read what it shares with others: a fan-out's log, replies to requests. Returns
 * true if that changed the machine. Call it at the start of every turn, and wait only after it has
 * returned false: from then on the machine's token enters the queue of wake-ups.
 */
bool wirestate_machine_poll_shared(wirestate_machine *machine, uint64_t now);

/**
 * The machine's deadline, on the clock of `now`: report `WIRESTATE_EVENT_TIMEOUT` then.
 * `WIRESTATE_NEVER`: it has none. Every other call may change it.
 */
uint64_t wirestate_machine_deadline(wirestate_machine *machine);

/**
 * Copies received bytes into the machine, instead of `wirestate_machine_read_buf` and
 * `WIRESTATE_EVENT_READ`. Returns how many bytes it has accepted: fewer than `len` if the machine
 * wants to read no more for now. Keep the rest, and read no more from the socket: pass it once the
 * machine wants to read again.
 */
size_t wirestate_machine_receive(wirestate_machine *machine,
                                 uint64_t now,
                                 const uint8_t *data,
                                 size_t len);

/**
 * Copies output to your buffer, instead of `wirestate_machine_write_bufs` and
 * `WIRESTATE_EVENT_WRITTEN`. Returns the number of bytes: fewer than `len` if the machine has no
 * more for now. They count as written: you must send them, in order, before a FIN.
 */
size_t wirestate_machine_collect(wirestate_machine *machine,
                                 uint64_t now,
                                 uint8_t *buffer,
                                 size_t len);

/**
 * Whether the socket must be closed by an RST (set `SO_LINGER` to 0, then close it): output is
 * pending, the machine wants or wanted a reset, or a read or write has failed. A FIN would tell
 * the peer that the output is complete. Ask before you close a socket, at any time.
 */
bool wirestate_machine_must_reset(wirestate_machine *machine);

/**
 * Copies the name of the machine's state to `buffer`, terminated by NUL, as far as it fits into
 * `size` bytes. Returns the length of the whole text, as `snprintf(3)` does.
 */
size_t wirestate_machine_state(wirestate_machine *machine, char *buffer, size_t size);

/**
 * Bytes of pending output.
 */
size_t wirestate_machine_queued(wirestate_machine *machine);

/**
 * How many messages a subscriber lags behind; 0 for other machines.
 */
uint64_t wirestate_machine_lag(wirestate_machine *machine);

/**
 * Copies why the machine ended, a sentence with limits and figures, as `wirestate_machine_state`
 * does. Empty while there is no reason. A reason never changes.
 */
size_t wirestate_machine_reason(wirestate_machine *machine, char *buffer, size_t size);

/**
 * Copies the short name of the reason, without figures, for a metric, as
 * `wirestate_machine_reason` does.
 */
size_t wirestate_machine_label(wirestate_machine *machine, char *buffer, size_t size);

/**
 * Whose fault the end was.
 */
wirestate_fault wirestate_machine_fault(wirestate_machine *machine);

/**
 * Frees the machine, in any state. Its requests that you hold stay valid. Its token does not enter
 * the queue of wake-ups any more, and leaves it. NULL is ignored.
 */
void wirestate_machine_free(wirestate_machine *machine);

/**
 * Sends a request, which is copied. Drive the machine afterwards.
 *
 * - `WIRESTATE_RESULT_KIND`: the machine is no client's.
 * - `WIRESTATE_RESULT_BUSY`: as many requests as `WIRESTATE_SETTING_MAX_IN_FLIGHT` have no reply,
 *   or their replies were not taken.
 * - `WIRESTATE_RESULT_ENDED`: the connection accepts no more requests.
 * - `WIRESTATE_RESULT_HEADER`, `WIRESTATE_RESULT_VALUE`: the message cannot be sent.
 */
wirestate_result wirestate_machine_request(wirestate_machine *machine,
                                           const wirestate_message *request);

/**
 * Removes the next message that has arrived: a server's request, or a client's reply, in the order
 * of the requests. Returns NULL if there is none. You own it: reply to it, or free it.
 *
 * Call it after you have driven a machine, until it returns NULL. When a client's machine has
 * ended, the requests that are left have no replies.
 */
wirestate_incoming *wirestate_machine_next_message(wirestate_machine *machine);

/**
 * Shows a message. The slices are valid until the message is freed or replied to.
 */
wirestate_result wirestate_incoming_get(const wirestate_incoming *incoming,
                                        wirestate_message *message);

/**
 * Replies to a request, and frees it if the call succeeds. The reply is copied; it may consist of
 * slices of the request.
 *
 * Replies are sent in the order of the requests, whatever the order of the calls. Any thread may
 * reply, also after the machine was freed: then the reply is dropped. The call wakes the machine
 * (`wirestate_wakes_next`). On another thread than the machine's, call `wirestate_wakes_interrupt`
 * next.
 *
 * - `WIRESTATE_RESULT_KIND`: the message is a reply itself.
 * - `WIRESTATE_RESULT_HEADER`, `WIRESTATE_RESULT_VALUE`: the reply cannot be sent.
 *
 * # Safety
 * See [the rules](crate#safety). If the call succeeds, `incoming` is freed.
 */
wirestate_result wirestate_incoming_reply(wirestate_incoming *incoming,
                                          const wirestate_message *reply);

/**
 * Frees a message. A request without a reply is answered with an error. NULL is ignored.
 */
void wirestate_incoming_free(wirestate_incoming *incoming);

/**
 * Makes the TLS of a server: a chain of certificates, the server's first, and its private key, in
 * PEM. If `clients` is not empty, a client must present a certificate of one of these authorities.
 *
 * `WIRESTATE_RESULT_CONFIG`: they cannot be used. `error` says why, as in `wirestate_server_new`.
 */
wirestate_result wirestate_tls_server_new(wirestate_slice chain,
                                          wirestate_slice key,
                                          wirestate_slice clients,
                                          wirestate_tls **tls,
                                          char *error,
                                          size_t error_size);

/**
 * Makes the TLS of a client: the authorities that it trusts, in PEM, and the name that the
 * server's certificate must have, a host name or an IP address. Errors are as in
 * `wirestate_tls_server_new`.
 */
wirestate_result wirestate_tls_client_new(wirestate_slice authorities,
                                          wirestate_slice name,
                                          wirestate_tls **tls,
                                          char *error,
                                          size_t error_size);

/**
 * Puts TLS around a machine that was just made: from now on it receives and sends ciphertext. Its
 * messages stay plaintext. Call it before the first turn. `tls` may be freed afterwards.
 *
 * `WIRESTATE_RESULT_STATE`: the machine has ended.
 */
wirestate_result wirestate_machine_start_tls(wirestate_machine *machine,
                                             const wirestate_tls *tls,
                                             uint64_t now);

/**
 * Frees it. Machines go on. NULL is ignored.
 */
void wirestate_tls_free(wirestate_tls *tls);

/**
 * Encodes a message: two bytes with the length of the header, the header, the content. Stores the
 * length of the whole, also if the buffer is too small.
 *
 * - `WIRESTATE_RESULT_BUFFER`: it is longer than `size`. Nothing was written to the buffer.
 * - `WIRESTATE_RESULT_HEADER`, `WIRESTATE_RESULT_VALUE`: the message cannot be sent.
 */
wirestate_result wirestate_encode(const wirestate_message *message,
                                  uint8_t *buffer,
                                  size_t size,
                                  size_t *len);

/**
 * Makes a decoder at the start of a message. `max_header` is at most 65,535; usual limits are
 * 4,096 and 1,048,576 bytes.
 */
wirestate_result wirestate_decoder_new(uint16_t max_header,
                                       uint64_t max_content,
                                       wirestate_decoder **decoder);

/**
 * Finds the next part of a message in the input. Call it until it has found
 * `WIRESTATE_DECODED_KIND_NEEDS_INPUT`, each time with the input that is not consumed.
 *
 * `WIRESTATE_RESULT_MALFORMED`: the input is not a message, and cannot be continued. The result
 * does not depend on how the input was cut.
 */
wirestate_result wirestate_decoder_decode(wirestate_decoder *decoder,
                                          const uint8_t *data,
                                          size_t len,
                                          wirestate_decoded *found);

/**
 * Checks that the stream has not ended within a message.
 *
 * `WIRESTATE_RESULT_MALFORMED`: it has, or it was malformed before.
 */
wirestate_result wirestate_decoder_finish(wirestate_decoder *decoder);

/**
 * Copies the text of the decoder's error, with limit and figure, to `buffer`, terminated by NUL,
 * as far as it fits into `size` bytes. Returns the length of the whole text. Empty without an
 * error.
 */
size_t wirestate_decoder_error(const wirestate_decoder *decoder, char *buffer, size_t size);

/**
 * Frees a decoder. NULL is ignored.
 */
void wirestate_decoder_free(wirestate_decoder *decoder);

/**
 * Allocates `size` bytes, aligned to 16, for a host that has no `malloc` of its own: JavaScript
 * with WebAssembly. Returns NULL if `size` is 0 or the memory is exhausted. The memory is not
 * initialised. Free it with `wirestate_free`.
 */
uint8_t *wirestate_alloc(size_t size);

/**
 * Frees memory of `wirestate_alloc`. `size` is the size that was allocated. NULL is ignored.
 */
void wirestate_free(uint8_t *memory, size_t size);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* WIRESTATE_H */
