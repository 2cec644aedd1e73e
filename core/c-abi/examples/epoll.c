/* Three servers on one thread, with epoll(7): an echo, one that answers each message with the same
 * message, and a fan-out of lines. docs/embed.md has the commands that build and run it.
 *
 * It prints its ports, serves until its standard input ends, then lets the connections finish.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <linux/sockios.h>

#include "wirestate.h"

enum { TURNS = 16, SLICES = 16, EVENTS = 64 };

/* What epoll(7) reports: standard input, a listener or a connection. */
enum kind { INPUT, LISTENER, CONNECTION };

struct listener {
    enum kind kind;
    int fd;
    const char *name;
    wirestate_server *server;
    /* Whether its clients publish to the fan-out. */
    bool is_upstream;
};

struct connection {
    enum kind kind;
    int fd;
    wirestate_machine *machine;
    /* What the socket is registered for. 0: it is not in the set. */
    uint32_t events;
    /* Whether to drive it without waiting: it was woken, or has used up its turns. */
    bool again;
    struct connection *next, **link;
};

static int epoll;
static uint64_t now;
static wirestate_wakes *wakes;
static struct connection *connections;

static void check(bool ok, const char *what) {
    if (!ok) {
        perror(what);
        exit(1);
    }
}

/* An illegal event is a bug of this loop. After a panic, the machine wants a reset. */
static void handle(struct connection *c, uint32_t event, uint64_t value) {
    wirestate_result result = wirestate_machine_handle(c->machine, now, event, value);
    if (result != WIRESTATE_RESULT_OK && result != WIRESTATE_RESULT_PANIC) {
        fprintf(stderr, "event %u: %s\n", event, wirestate_result_text(result));
        abort();
    }
}

/* Reports the result of a call: `event` with its bytes, or `error`. False if it would block. */
static bool report(struct connection *c, ssize_t n, uint32_t event, uint32_t error) {
    if (n >= 0)
        handle(c, event, (uint64_t)n);
    else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
        handle(c, error, (uint64_t)errno);
    else
        return errno == EINTR;
    return true;
}

static bool turn(struct connection *c) {
    bool moved = wirestate_machine_poll_shared(c->machine, now);
    uint32_t wants = wirestate_machine_wants(c->machine);
    if (wants & WIRESTATE_WANT_WRITE) {
        wirestate_slice slices[SLICES];
        struct iovec buffers[SLICES];
        size_t count = wirestate_machine_write_bufs(c->machine, slices, SLICES);
        for (size_t i = 0; i < count; i++)
            buffers[i] = (struct iovec){(void *)slices[i].data, slices[i].len};
        ssize_t n = writev(c->fd, buffers, (int)count);
        moved |= report(c, n, WIRESTATE_EVENT_WRITTEN, WIRESTATE_EVENT_WRITE_ERROR);
    }
    if (wants & WIRESTATE_WANT_FINISH) {
        int n = shutdown(c->fd, SHUT_WR);
        moved |= report(c, n, WIRESTATE_EVENT_FINISHED, WIRESTATE_EVENT_WRITE_ERROR);
    }
    if (wants & WIRESTATE_WANT_RESET) {
        /* `end` sends the RST. */
        handle(c, WIRESTATE_EVENT_FINISHED, 0);
        moved = true;
    }
    if (wirestate_machine_wants(c->machine) & WIRESTATE_WANT_READ) {
        size_t len;
        uint8_t *buffer = wirestate_machine_read_buf(c->machine, &len);
        ssize_t n = read(c->fd, buffer, len);
        uint32_t event = n == 0 ? WIRESTATE_EVENT_EOF : WIRESTATE_EVENT_READ;
        moved |= report(c, n, event, WIRESTATE_EVENT_READ_ERROR);
    }
    return moved;
}

static void end(struct connection *c) {
    char reason[200], label[32];
    wirestate_machine_reason(c->machine, reason, sizeof reason);
    wirestate_machine_label(c->machine, label, sizeof label);
    fprintf(stderr, "connection ended: %s (%s)\n", label, reason);
    if (wirestate_machine_must_reset(c->machine))
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
    close(c->fd);
    wirestate_machine_free(c->machine);
    *c->link = c->next;
    if (c->next) c->next->link = c->link;
    free(c);
}

/* Answers each request of a message server with the same message. */
static void answer(struct connection *c) {
    wirestate_incoming *request;
    while ((request = wirestate_machine_next_message(c->machine))) {
        wirestate_message message;
        wirestate_incoming_get(request, &message);
        if (wirestate_incoming_reply(request, &message) != WIRESTATE_RESULT_OK)
            wirestate_incoming_free(request);
    }
}

/* Registers the socket for what the machine waits for. */
static void wait_for(struct connection *c, uint32_t events) {
    if (events == c->events) return;
    int call = !c->events ? EPOLL_CTL_ADD : events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
    struct epoll_event event = {.events = events, .data.ptr = c};
    check(epoll_ctl(epoll, call, c->fd, &event) == 0, "epoll_ctl");
    c->events = events;
}

/* Drives a connection until nothing moves any more. It may have ended afterwards. */
static void drive(struct connection *c) {
    int turns = 0;
    for (bool timed_out = false;;) {
        while (turns < TURNS && turn(c)) turns++;
        answer(c);
        c->again = turns == TURNS;
        if (timed_out || c->again || wirestate_machine_deadline(c->machine) > now) break;
        int unacknowledged = 0;
        ioctl(c->fd, SIOCOUTQ, &unacknowledged);
        handle(c, WIRESTATE_EVENT_TIMEOUT, (uint64_t)unacknowledged);
        timed_out = true;
    }
    uint32_t wants = wirestate_machine_wants(c->machine), events = 0;
    if (wants & WIRESTATE_ENDED) {
        end(c);
        return;
    }
    if (!c->again) {
        handle(c, WIRESTATE_EVENT_RELEASE, 0);
        if (wants & WIRESTATE_WANT_READ) events |= EPOLLIN;
        if (wants & WIRESTATE_WANT_WRITE) events |= EPOLLOUT;
    }
    wait_for(c, events);
}

/* A server would pause here while no file descriptor is free. */
static void accept_all(struct listener *listener) {
    for (int fd; (fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        struct connection *c = calloc(1, sizeof *c);
        check(c != NULL, "calloc");
        *c = (struct connection){.kind = CONNECTION, .fd = fd, .link = &connections};
        wirestate_result (*machine)(const wirestate_server *, const wirestate_wakes *, uint64_t,
                                    uint64_t, wirestate_machine **) =
            listener->is_upstream ? wirestate_upstream_new : wirestate_server_accept;
        wirestate_result result =
            machine(listener->server, wakes, (uint64_t)(uintptr_t)c, now, &c->machine);
        check(result == WIRESTATE_RESULT_OK, "a new machine");
        c->next = connections;
        if (c->next) c->next->link = &c->next;
        connections = c;
        drive(c);
    }
}

static wirestate_server *server(uint32_t kind, const wirestate_config *config) {
    wirestate_server *server;
    char error[200] = "";
    if (wirestate_server_new(kind, config, &server, error, sizeof error) != WIRESTATE_RESULT_OK) {
        fprintf(stderr, "%s\n", error);
        exit(1);
    }
    return server;
}

static void listen_on(struct listener *listener) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    check(fd >= 0, "socket");
    check(bind(fd, (struct sockaddr *)&address, len) == 0, "bind");
    check(listen(fd, 4096) == 0, "listen");
    check(getsockname(fd, (struct sockaddr *)&address, &len) == 0, "getsockname");
    listener->fd = fd;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = listener};
    check(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
    printf("%s %d\n", listener->name, ntohs(address.sin_port));
}

static uint64_t clock_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* How long to wait, in milliseconds; -1 is forever. */
static int timeout(void) {
    uint64_t earliest = WIRESTATE_NEVER;
    for (struct connection *c = connections; c; c = c->next) {
        uint64_t deadline = c->again ? 0 : wirestate_machine_deadline(c->machine);
        if (deadline < earliest) earliest = deadline;
    }
    if (earliest == WIRESTATE_NEVER) return -1;
    if (earliest <= now) return 0;
    uint64_t millis = (earliest - now) / 1000000 + 1;
    return millis < 60000 ? (int)millis : 60000;
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    check((epoll = epoll_create1(EPOLL_CLOEXEC)) >= 0, "epoll_create1");
    check(wirestate_wakes_new(&wakes) == WIRESTATE_RESULT_OK, "wirestate_wakes_new");

    wirestate_config *lines;
    check(wirestate_config_new(&lines) == WIRESTATE_RESULT_OK, "wirestate_config_new");
    wirestate_config_set(lines, WIRESTATE_SETTING_FRAMING, WIRESTATE_FRAMING_DELIMITED);
    wirestate_server *fanout = server(WIRESTATE_SERVER_KIND_FANOUT, lines);
    wirestate_config_free(lines);

    struct listener listeners[] = {
        {LISTENER, -1, "echo", server(WIRESTATE_SERVER_KIND_ECHO, NULL), false},
        {LISTENER, -1, "message", server(WIRESTATE_SERVER_KIND_MESSAGE, NULL), false},
        {LISTENER, -1, "publish", fanout, true},
        {LISTENER, -1, "subscribe", fanout, false},
    };
    size_t count = sizeof listeners / sizeof *listeners;
    for (size_t i = 0; i < count; i++) listen_on(&listeners[i]);
    fflush(stdout);
    enum kind input = INPUT;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &input};
    /* A file, or /dev/null, cannot be waited for: it counts as ended. */
    bool stopping = epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &event) != 0;

    while (!stopping || connections) {
        now = clock_now();
        struct epoll_event events[EVENTS];
        int n = epoll_wait(epoll, events, EVENTS, timeout());
        check(n >= 0 || errno == EINTR, "epoll_wait");
        now = clock_now();
        for (int i = 0; i < n; i++) {
            void *source = events[i].data.ptr;
            switch (*(enum kind *)source) {
                case CONNECTION: drive(source); break;
                case LISTENER: accept_all(source); break;
                case INPUT: stopping = read(STDIN_FILENO, (char[64]){0}, 64) == 0; break;
            }
        }
        if (stopping && listeners[0].fd >= 0) {
            epoll_ctl(epoll, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
            for (size_t i = 0; i < count; i++) {
                close(listeners[i].fd);
                listeners[i].fd = -1;
            }
            for (struct connection *c = connections; c; c = c->next) {
                handle(c, WIRESTATE_EVENT_SHUT_DOWN, 0);
                c->again = true;
            }
        }
        for (struct connection *c = connections, *next; c; c = next) {
            next = c->next;
            if (c->again || wirestate_machine_deadline(c->machine) <= now) drive(c);
        }
        /* Sockets that are ready meanwhile have their turns first. */
        for (uint64_t token; wirestate_wakes_next(wakes, &token);)
            ((struct connection *)(uintptr_t)token)->again = true;
    }
    for (size_t i = 0; i < count; i++)
        if (!listeners[i].is_upstream) wirestate_server_free(listeners[i].server);
    wirestate_wakes_free(wakes);
    return 0;
}
